"""The protocols that every family of encoders implements, and the arrays that pass between their two halves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipelines.encoders.spec import EncoderSpec
from schemas.config import EncoderConfig, LimitsConfig
from schemas.records import Modality

Raw = str | bytes | npt.NDArray[np.floating]
"""One input as read: a text, the bytes of an image file, or a precomputed vector (D,)."""

Prepared = npt.NDArray[np.int32] | npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""One input, ready for the accelerator: int32 token ids (L,), uint8 RGB pixels (H, W, 3), or a float32 vector (D,)."""


class BadSample(Exception):
    """An input that cannot be prepared, which becomes a Reject. `reason` is its short class, for counting."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep the short class and the exact cause."""
        self.reason = reason
        super().__init__(message)


class Preparer(Protocol):
    """The CPU half of an encoder. Safe to call from several threads."""

    def prepare(self, values: Sequence[Raw]) -> Sequence[Prepared | BadSample]:
        """Turn raw inputs into arrays; a BadSample stands in the place of each input that is bad."""
        ...

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Return the cost of each of B inputs of one modality, (B,): its tokens (text), or 1 (image, vector)."""
        ...


class Encoder(Protocol):
    """The accelerator half of an encoder. One thread at a time."""

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode a batch of one modality.

        Args:
            prepared: B outputs of the matching Preparer, of any lengths.

        Returns:
            (B, D) float32, unit rows, in the order given. A row depends on its own input only, not on its neighbours.
        """
        ...


@runtime_checkable
class CountsUsage(Protocol):
    """An encoder that asks a server, and counts what it asked for."""

    def usage(self) -> dict[str, int]:
        """Return requests, tokens and cost so far, by the names that `schemas.records.Usage.of` reads."""
        ...


def usage_of(encoder: Encoder) -> dict[str, int]:
    """Return what an encoder has asked of a server so far, each name behind `served_`; empty where there is none."""
    used = encoder.usage() if isinstance(encoder, CountsUsage) else {}
    return {f"served_{name}": count for name, count in used.items()}


class Family(Protocol):
    """One family of encoders: the specs of one library or kind, and the code that runs them."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec whose facts are in the file or folder at `encoder.path`; others are complete already."""
        return spec

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> Preparer:
        """Load the CPU half, without weights."""
        ...

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> Encoder:
        """Load the accelerator half onto `config.device`."""
        ...


def modality_of(value: Raw) -> Modality:
    """Return the modality of a raw value."""
    if isinstance(value, str):
        return "text"
    return "image" if isinstance(value, bytes) else "vector"


def modality_of_prepared(prepared: Prepared) -> Modality:
    """Return the modality of the input that a prepared array was made from."""
    if prepared.dtype == np.uint8:
        return "image"
    return "text" if prepared.dtype == np.int32 else "vector"
