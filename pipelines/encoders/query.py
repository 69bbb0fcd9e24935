"""Encoding one query into a space."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt

from pipelines.encoders.protocol import BadSample, Encoder, Preparer
from pipelines.encoders.registry import load_encoder, load_preparer, spec_of
from schemas.columns import Space
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import InputError, SpaceMismatch


def encode_query(space: Space, query: str | bytes) -> npt.NDArray[np.float32]:
    """Encode words or the bytes of an image with the space's own encoder and query prompt, before any rotation.

    The encoder is loaded once per process.

    Returns:
        (D,) float32, unit length.

    Raises:
        SpaceMismatch: The space has no encoder for such a query.
        InputError: The query is empty, or not an image.
    """
    modality = "text" if isinstance(query, str) else "image"
    spec = spec_of(space)
    if spec.modality != modality:
        raise SpaceMismatch(f"{spec.name} embeds {spec.modality}s; it cannot take a query that is {modality}")
    preparer, encoder = _load(spec.name)
    prepared = preparer.prepare(cast("list[str]", [query]))[0]
    if isinstance(prepared, BadSample):
        raise InputError(f"the query cannot be embedded: {prepared}")
    return encoder.encode([prepared])[0]


@lru_cache(maxsize=4)
def _load(name: str) -> tuple[Preparer, Encoder]:
    config = EncoderConfig(name=name, side="query")
    return load_preparer(config, LimitsConfig()), load_encoder(config)
