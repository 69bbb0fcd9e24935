"""Inputs that an encoder takes as they are: texts and image files, carried as arrays so that any pool can move them.

A text travels as its Unicode code points, int32; the bytes of an image as uint8. So the dtype still says which it is.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized

import numpy as np
import numpy.typing as npt

from pipelines.encoders.protocol import BadSample, Prepared, Raw
from schemas.records import Modality

_CHARACTERS_PER_TOKEN = 4  # of English


class RawPreparer:
    """Passes inputs on; an empty one, or one of another kind, is bad."""

    def __init__(self, modality: Modality) -> None:
        """Take the kind of input."""
        self._modality = modality

    def prepare(self, values: Sequence[Raw]) -> list[Prepared | BadSample]:
        """Turn texts or the bytes of images into arrays."""
        return [self._pack(value) for value in values]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Return the estimated tokens of texts, or 1 for each image, (B,)."""
        if self._modality == "image":
            return np.ones(len(prepared), np.int64)
        return np.array([estimated_tokens(one) for one in prepared], np.int64)

    def _pack(self, value: Raw) -> Prepared | BadSample:
        if isinstance(value, str) and self._modality == "text":
            if not value.strip():
                return BadSample("empty_text", "nothing but white space")
            return np.frombuffer(value.encode("utf-32-le", "replace"), np.int32)
        if isinstance(value, bytes) and self._modality == "image":
            return np.frombuffer(value, np.uint8) if value else BadSample("bad_image", "no bytes")
        return BadSample("wrong_input", f"this encoder takes {self._modality} inputs")


def estimated_tokens(text: Sized) -> int:
    """Estimate the tokens of a text that a tokeniser elsewhere makes, from its characters."""
    return 1 + len(text) // _CHARACTERS_PER_TOKEN


def unpack(prepared: Prepared) -> str | bytes:
    """Return the text or the bytes that an array carries."""
    if prepared.dtype == np.uint8:
        return prepared.tobytes()
    return prepared.astype(np.int32).tobytes().decode("utf-32-le")
