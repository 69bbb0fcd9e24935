"""Encoders: the registry of models, their two halves, and the Space that a config embeds into.

The `Preparer` is the CPU half (tokenise, decode, resize). It needs no weights, so it can run on other machines than the
GPU. The `Encoder` is the accelerator half. Numpy arrays pass between them: int32 token ids (L,), uint8 RGB pixels
(H, W, 3), or precomputed float32 vectors (D,). Tables, batches and retries are not known here.
"""

from __future__ import annotations

from pipelines.encoders.of_space import check_same_code, spec_of
from pipelines.encoders.own_class import modules_to_send
from pipelines.encoders.protocol import BadSample, Encoder, Prepared, Preparer, Raw, usage_of
from pipelines.encoders.query import encode_query
from pipelines.encoders.registry import (
    REGISTRY,
    check_trust,
    encoder_spec,
    known_encoders,
    load_encoder,
    load_preparer,
    make_space,
    resolve,
)
from pipelines.encoders.spec import EncoderSpec, licence_notice
from pipelines.encoders.text_counts import count_texts
from pipelines.encoders.token_lists import TokenLists, concatenate, select
from pipelines.encoders.token_places import TokenPlaces, token_places

__all__ = [
    "REGISTRY",
    "BadSample",
    "Encoder",
    "EncoderSpec",
    "Prepared",
    "Preparer",
    "Raw",
    "TokenLists",
    "TokenPlaces",
    "check_same_code",
    "check_trust",
    "concatenate",
    "count_texts",
    "encode_query",
    "encoder_spec",
    "known_encoders",
    "licence_notice",
    "load_encoder",
    "load_preparer",
    "make_space",
    "modules_to_send",
    "resolve",
    "select",
    "spec_of",
    "token_places",
    "usage_of",
]
