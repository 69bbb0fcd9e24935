"""What every family implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Prepared = npt.NDArray[np.int32] | npt.NDArray[np.uint8]
"""One input, ready for the accelerator: int32 token ids (L,), or uint8 RGB pixels (H, W, 3)."""


class BadSample(Exception):
    """An input that cannot be prepared; becomes a Reject. `reason` is its short class, for counting."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep the short class and the exact cause."""
        self.reason = reason
        super().__init__(message)


class Preparer(Protocol):
    """The CPU half of an encoder. Safe to call from several threads."""

    def prepare(self, values: Sequence[str] | Sequence[bytes]) -> list[Prepared | BadSample]:
        """Turn raw inputs into arrays; a bad one comes back as a BadSample in its place, the others are unharmed."""
        ...

    def unit_count(self, prepared: Prepared) -> int:
        """What an input costs: its tokens (text), or 1 (image)."""
        ...


class Encoder(Protocol):
    """The accelerator half of an encoder. One thread at a time."""

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode a batch.

        Args:
            prepared: B outputs of the matching Preparer, of any lengths.

        Returns:
            (B, D) float32, unit rows, in the order given. A row depends on its own input only, not on its neighbours.
        """
        ...
