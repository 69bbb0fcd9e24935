"""What every family implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from schemas.records import Modality

Raw = str | bytes | npt.NDArray[np.floating]
"""One input as read: words, the bytes of an image file, or a vector made elsewhere (D,)."""

Prepared = npt.NDArray[np.int32] | npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""One input, ready for the accelerator: int32 token ids (L,), uint8 RGB pixels (H, W, 3), or a float32 vector (D,)."""


class BadSample(Exception):
    """An input that cannot be prepared; becomes a Reject. `reason` is its short class, for counting."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep the short class and the exact cause."""
        self.reason = reason
        super().__init__(message)


class Preparer(Protocol):
    """The CPU half of an encoder. Safe to call from several threads."""

    def prepare(self, values: Sequence[Raw]) -> Sequence[Prepared | BadSample]:
        """Turn raw inputs into arrays; a bad one comes back as a BadSample in its place, the others are unharmed."""
        ...

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """What each of B inputs of one modality costs, (B,): its tokens (text), or 1 (image, vector)."""
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


def modality_of(value: Raw) -> Modality:
    """Return what kind of input a raw value is."""
    if isinstance(value, str):
        return "text"
    return "image" if isinstance(value, bytes) else "vector"


def modality_prepared(prepared: Prepared) -> Modality:
    """Return what kind of input a prepared array came from."""
    if prepared.dtype == np.uint8:
        return "image"
    return "text" if prepared.dtype == np.int32 else "vector"
