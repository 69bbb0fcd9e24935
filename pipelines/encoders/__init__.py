"""Encoders: the registry, the two protocols every family implements, and how a config becomes a Space.

`Preparer` is the CPU half (tokenise, decode, resize) and needs no weights, so it can run on other machines than the GPU.
`Encoder` is the accelerator half. Both deal in plain numpy arrays: int32 token ids of shape (L,), or uint8 RGB of (H, W, 3).
"""

from __future__ import annotations

from pipelines.encoders.batching import BatchBudget, encode_safely, plan_batches
from pipelines.encoders.protocol import BadSample, Encoder, Prepared, Preparer
from pipelines.encoders.query import encode_query
from pipelines.encoders.registry import EncoderSpec, encoder_spec, load_encoder, load_preparer, make_space, spec_of

__all__ = [
    "BadSample",
    "BatchBudget",
    "Encoder",
    "EncoderSpec",
    "Prepared",
    "Preparer",
    "encode_query",
    "encode_safely",
    "encoder_spec",
    "load_encoder",
    "load_preparer",
    "make_space",
    "plan_batches",
    "spec_of",
]
