"""Every entry of the catalogue is whole, and states what its model's authors state."""

from __future__ import annotations

import re

import pytest

from pipelines.encoders import REGISTRY, EncoderSpec, check_trust, encoder_spec, make_space
from schemas.columns import Space
from schemas.config import EncoderConfig
from schemas.errors import ConfigError, EncoderNotTrusted


@pytest.mark.parametrize("spec", REGISTRY.values(), ids=REGISTRY.keys())
def test_every_entry_is_complete(spec: EncoderSpec) -> None:
    assert list(spec.dims) == sorted(set(spec.dims))
    assert spec.licence
    assert spec.dtypes[0] == "float32"
    assert spec.is_verified or spec.family in ("clip", "omni", "sentence", "transformer", "vision")
    assert not (spec.is_verified and spec.unconfirmed)
    if spec.repo and not spec.revision:
        assert not spec.is_verified
        assert "commit" in spec.unconfirmed
        with pytest.raises(ConfigError, match=rf"hf://{spec.repo}@COMMIT"):
            make_space(EncoderConfig(name=spec.name))
        return
    if spec.repo and spec.family != "timm":
        assert re.fullmatch(r"[0-9a-f]{40}", spec.revision)
    if spec.dims and spec.family != "precomputed":  # the others are described by a file
        assert bool(spec.repo) != bool(spec.package)
        assert spec.steps[-1] == "l2"
        assert ("text" not in spec.modalities) or spec.max_length
        assert make_space(EncoderConfig(name=spec.name)).ladder == spec.ladder


def test_the_ladders_are_those_that_the_authors_state() -> None:
    ladders = {
        "nomic-embed-text-v1.5": (64, 128, 256, 512, 768),
        "nomic-embed-vision-v1.5": (768,),
        "embeddinggemma-300m": (128, 256, 512, 768),
        "jina-embeddings-v3": (32, 64, 128, 256, 512, 768, 1024),
        "jina-clip-v2": (64, 128, 256, 512, 768, 1024),
        "mxbai-embed-large-v1": (512, 1024),
        "snowflake-arctic-embed-m-v1.5": (256, 768),
        "granite-embedding-311m-r2": (128, 256, 384, 512, 768),
        "wordllama": (64, 128, 256),
        "modernbert-embed-base": (256, 768),
        "nomic-embed-text-v2-moe": (256, 768),
        "snowflake-arctic-embed-m-v2.0": (256, 768),
        "snowflake-arctic-embed-l-v2.0": (256, 1024),
        "static-retrieval-mrl-en-v1": (32, 64, 128, 256, 512, 1024),
        "static-similarity-mrl-v1": (32, 64, 128, 256, 512, 1024),
        "mmbert-embed-32k-2d": (64, 128, 256, 512, 768),
        "jina-embeddings-v4": (128, 256, 512, 1024, 2048),
        "jina-embeddings-v5-text-small": (32, 64, 128, 256, 512, 768, 1024),
        "jina-embeddings-v5-omni-nano": (32, 64, 128, 256, 512, 768),
        "voyage-4-nano": (256, 512, 1024, 2048),
        "llama-nemotron-embed-1b-v2": (384, 512, 768, 1024, 2048),
        "embeddinggemma-2": (128, 256, 512, 768),
        "amazon-nova-2-multimodal": (256, 384, 1024, 3072),
    }
    assert {name: encoder_spec(name).dims for name in ladders} == ladders
    for name, width in (("0.6b", 1024), ("4b", 2560), ("8b", 4096)):
        ladder = encoder_spec(f"qwen3-embedding-{name}").ladder
        assert (ladder.width, ladder.any_from) == (width, 32)
    for name, least, width in (("qwen3-vl-embedding-2b", 64, 2048), ("gemini-embedding-2", 128, 3072)):
        ladder = encoder_spec(name).ladder
        assert (ladder.any_from, ladder.width) == (least, width)
    for name in ("all-MiniLM-L6-v2", "bge-m3", "e5-base-v2", "siglip-base-patch16-224", "openclip-vit-b-32-laion2b"):
        assert not encoder_spec(name).is_matryoshka
    assert "float16" not in encoder_spec("embeddinggemma-300m").dtypes


def test_the_refusal_of_an_unverified_model_says_what_is_not_confirmed() -> None:
    with pytest.raises(EncoderNotTrusted, match=r"unverified: .*\(not confirmed: whether its download is gated\)"):
        check_trust(EncoderConfig(name="embeddinggemma-2"))


def test_models_that_share_a_space_are_comparable_and_no_others() -> None:
    def space(name: str, **settings: object) -> Space:
        return make_space(EncoderConfig.model_validate({"name": name} | settings))

    for one, other in (
        ("voyage-4-large", "voyage-4-nano"),
        ("voyage-4-lite", "voyage-4"),
        ("jina-embeddings-v5-text-small", "jina-embeddings-v5-omni-small"),
    ):
        assert space(one).is_comparable(space(other))
        assert space(one).fingerprint != space(other).fingerprint
    for one, other in (
        ("voyage-4", "voyage-multimodal-3.5"),
        ("jina-embeddings-v5-text-small", "jina-embeddings-v5-text-nano"),
        ("bge-m3", "e5-base-v2"),
    ):
        assert not space(one).is_comparable(space(other))
    rotated = space("voyage-4").model_copy(update={"rotation": "0" * 16})
    assert not space("voyage-4").is_comparable(rotated)
