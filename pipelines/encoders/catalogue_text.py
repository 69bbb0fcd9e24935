"""The catalogue of text models; `catalogue.py` holds all others, and says where revisions are from."""

from __future__ import annotations

from pipelines.encoders.spec import EncoderSpec, Prompts

_EXACT_OR_BF16 = ("float32", "bfloat16")
_RETRIEVE = "Represent this sentence for searching relevant passages: "
_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_E5: Prompts = {"query": "query: ", "document": "passage: "}
NOMIC: Prompts = {"query": "search_query: ", "document": "search_document: "}
JINA_QUERY = "Represent the query for retrieving evidence documents: "
_VOYAGE: Prompts = {
    "query": "Represent the query for retrieving supporting documents: ",
    "document": "Represent the document for retrieval: ",
}
_JINA_V5_SMALL = (32, 64, 128, 256, 512, 768, 1024)
_JINA_V5_NANO = (32, 64, 128, 256, 512, 768)
_JINA_V5: Prompts = {"query": "Query: ", "document": "Document: "}
_JINA_TASKS: Prompts = {"query": "retrieval", "document": "retrieval"}

TEXT = (
    EncoderSpec(
        "nomic-embed-text-v1.5",
        "transformer",
        ("text",),
        (64, 128, 256, 512, 768),
        "Apache-2.0",
        repo="nomic-ai/nomic-embed-text-v1.5",
        revision="b0753ae76394dd36bcfb912a46018088bca48be0",
        prompts=NOMIC,
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
        prompts={"query": JINA_QUERY, "document": "Represent the document for retrieval: "},
        tasks={"query": "retrieval.query", "document": "retrieval.passage"},
        max_length=8192,
        runs_code=True,
        is_verified=False,
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
        "modernbert-embed-base",
        "transformer",
        ("text",),
        (256, 768),
        "Apache-2.0",
        repo="nomic-ai/modernbert-embed-base",
        revision="5960f1566fb7cb1adf1eb6e816639cf4646d9b12",
        prompts=NOMIC,
        pooling="mean",
        max_length=8192,
    ),
    EncoderSpec(
        "nomic-embed-text-v2-moe",
        "transformer",
        ("text",),
        (256, 768),
        "Apache-2.0",
        repo="nomic-ai/nomic-embed-text-v2-moe",
        revision="1066b6599d099fbb93dfcb64f9c37a7c9e503e85",
        prompts=NOMIC,
        pooling="mean",
        max_length=512,
        runs_code=True,
        is_verified=False,
    ),
    EncoderSpec(
        "snowflake-arctic-embed-l-v2.0",
        "transformer",
        ("text",),
        (256, 1024),
        "Apache-2.0",
        repo="Snowflake/snowflake-arctic-embed-l-v2.0",
        revision="edc2df7b6c25794b340229ca082e7c78782e6374",
        prompts={"query": "query: "},
        pooling="cls",
        max_length=8192,
    ),
    EncoderSpec(
        "snowflake-arctic-embed-m-v2.0",
        "transformer",
        ("text",),
        (256, 768),
        "Apache-2.0",
        repo="Snowflake/snowflake-arctic-embed-m-v2.0",
        revision="f2a7d59d80dfda5b1d14f096f3ce88bb6bf9ebdc",
        prompts={"query": "query: "},
        pooling="cls",
        max_length=8192,
        runs_code=True,
        is_verified=False,
    ),
    # Trained at pairs of a layer and a dim; here its last layer.
    EncoderSpec(
        "mmbert-embed-32k-2d",
        "sentence",
        ("text",),
        (64, 128, 256, 512, 768),
        "Apache-2.0",
        repo="llm-semantic-router/mmbert-embed-32k-2d-matryoshka",
        revision="c544097d7603b10c546560e8be5d7fe0965a7909",
        max_length=32768,
    ),
    *(
        EncoderSpec(
            name,
            "static",
            ("text",),
            (32, 64, 128, 256, 512, 1024),
            "Apache-2.0",
            repo=f"sentence-transformers/{repo}",
            revision=commit,
            pooling="mean",
            max_length=1 << 17,
            is_ragged=True,
            dtypes=("float32",),
        )
        for name, repo, commit in (
            ("static-retrieval-mrl-en-v1", "static-retrieval-mrl-en-v1", "f60985c706f192d45d218078e49e5a8b6f15283a"),
            (
                "static-similarity-mrl-v1",
                "static-similarity-mrl-multilingual-v1",
                "7264ea07c5365a11d7e6d87dbb6195889a13054f",
            ),
        )
    ),
    EncoderSpec(
        "jina-embeddings-v4",
        "omni",
        ("text", "image"),
        (128, 256, 512, 1024, 2048),
        "CC-BY-NC-4.0",
        repo="jinaai/jina-embeddings-v4",
        revision="4a58ca57710c49f51896e4bc820e202fbf64904b",
        prompts={"query": "Query: ", "document": "Passage: "},  # as `PREFIX_DICT` of its code
        tasks=_JINA_TASKS,
        max_length=32768,
        runs_code=True,
        is_verified=False,
        unconfirmed="whether its module for sentence-transformers puts a prompt of its own in front as well",
    ),
    *(
        EncoderSpec(
            f"jina-embeddings-v5-{kind}-{size}",
            "omni",
            ("text", "image") if kind == "omni" else ("text",),
            dims,
            "CC-BY-NC-4.0",
            repo=f"jinaai/jina-embeddings-v5-{kind}-{size}",
            revision=commit,
            prompts=_JINA_V5,
            tasks=_JINA_TASKS,
            max_length=longest,
            runs_code=True,
            is_verified=False,
            shares=f"jina-embeddings-v5-{size}",
        )
        for kind, size, dims, longest, commit in (
            ("text", "small", _JINA_V5_SMALL, 32768, "dd76d535f5447ca3897a9c893fb1e612ead98192"),
            ("text", "nano", _JINA_V5_NANO, 8192, "4c1f9846bb85490df1d9e535834cf00ceb33823b"),
            ("omni", "small", _JINA_V5_SMALL, 32768, "dfdcc361ec47c69a5afcd81e4bd148abb9d0568e"),
            ("omni", "nano", _JINA_V5_NANO, 8192, "2b230c93c996e091a45b95af4e3315dd07605ee3"),
        )
    ),
    EncoderSpec(
        "voyage-4-nano",
        "omni",
        ("text",),
        (256, 512, 1024, 2048),
        "Apache-2.0",
        repo="voyageai/voyage-4-nano",
        revision="29e841f72aa70c2802a92aff8c6eeb23229591b0",
        prompts=_VOYAGE,
        max_length=32000,
        runs_code=True,
        is_verified=False,
        shares="voyage-4",
    ),
    EncoderSpec(
        "llama-nemotron-embed-1b-v2",
        "transformer",
        ("text",),
        (384, 512, 768, 1024, 2048),
        "NVIDIA, Llama-3.2",
        repo="nvidia/llama-nemotron-embed-1b-v2",
        prompts=_E5,
        pooling="mean",
        max_length=8192,
        runs_code=True,
        is_verified=False,
        unconfirmed="a commit to pin; its prompts and its pooling, which only others than its makers give",
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
