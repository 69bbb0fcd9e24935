"""Every entry of the catalogue is whole, and states what its model's authors state."""

from __future__ import annotations

import re

import pytest

from pipelines.encoders import REGISTRY, EncoderSpec, encoder_spec, make_space
from schemas.config import EncoderConfig


@pytest.mark.parametrize("spec", REGISTRY.values(), ids=REGISTRY.keys())
def test_every_entry_is_complete(spec: EncoderSpec) -> None:
    assert list(spec.dims) == sorted(set(spec.dims))
    assert spec.licence
    assert spec.dtypes[0] == "float32"
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
    }
    assert {name: encoder_spec(name).dims for name in ladders} == ladders
    for name, width in (("0.6b", 1024), ("4b", 2560), ("8b", 4096)):
        ladder = encoder_spec(f"qwen3-embedding-{name}").ladder
        assert (ladder.width, ladder.any_from) == (width, 32)
    for name in ("all-MiniLM-L6-v2", "bge-m3", "e5-base-v2", "siglip-base-patch16-224", "openclip-vit-b-32-laion2b"):
        assert not encoder_spec(name).is_matryoshka
    assert "float16" not in encoder_spec("embeddinggemma-300m").dtypes
