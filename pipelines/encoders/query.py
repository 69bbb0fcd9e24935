"""Encoding one query into a space."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipelines.encoders.protocol import BadSample, Encoder, Preparer, modality_of
from pipelines.encoders.registry import config_of, load_encoder, load_preparer, resolve
from schemas.columns import Space
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import InputError, SpaceMismatch


def encode_query(space: Space, query: str | bytes) -> npt.NDArray[np.float32]:
    """Encode words or the bytes of an image with the space's own encoder and query prompt, before any rotation.

    Of a joint model the tower of the query's modality answers, whichever of them made the table. The encoder is loaded
    once per process.

    Returns:
        (D,) float32, unit length.

    Raises:
        SpaceMismatch: The space has no encoder for such a query, or its local files have changed.
        InputError: The query is empty, or not an image.
    """
    config = config_of(space)
    spec, kind = resolve(config), modality_of(query)
    if kind not in spec.modalities:
        takes = " and ".join(spec.modalities)
        hint = "; embed it where they were made, and pass the vector" if spec.modalities == ("vector",) else ""
        raise SpaceMismatch(f"{spec.name} embeds {takes} inputs; it cannot take a query that is {kind}{hint}")
    preparer, encoder = _load(config)
    prepared = preparer.prepare([query])[0]
    if isinstance(prepared, BadSample):
        raise InputError(f"the query cannot be embedded: {prepared}")
    vector_D: npt.NDArray[np.float32] = encoder.encode([prepared])[0]
    return vector_D


@lru_cache(maxsize=4)
def _load(config: EncoderConfig) -> tuple[Preparer, Encoder]:
    return load_preparer(config, LimitsConfig()), load_encoder(config)
