"""Encoders: the registry, the two protocols every family implements, and how a config becomes a Space.

`Preparer` is the CPU half (tokenise, decode, resize) and needs no weights, so it can run on other machines than the
GPU. `Encoder` is the accelerator half. Both deal in plain numpy arrays: int32 token ids of shape (L,), uint8 RGB of
(H, W, 3), or float32 vectors made elsewhere.
"""

from __future__ import annotations

from pipelines.encoders.protocol import BadSample, Encoder, Prepared, Preparer, Raw
from pipelines.encoders.query import encode_query
from pipelines.encoders.registry import (
    REGISTRY,
    encoder_spec,
    load_encoder,
    load_preparer,
    make_space,
    resolve,
    spec_of,
)
from pipelines.encoders.spec import EncoderSpec, licence_notice
from pipelines.encoders.tokens import TokenLists, concatenate, select

__all__ = [
    "REGISTRY",
    "BadSample",
    "Encoder",
    "EncoderSpec",
    "Prepared",
    "Preparer",
    "Raw",
    "TokenLists",
    "concatenate",
    "encode_query",
    "encoder_spec",
    "licence_notice",
    "load_encoder",
    "load_preparer",
    "make_space",
    "resolve",
    "select",
    "spec_of",
]
