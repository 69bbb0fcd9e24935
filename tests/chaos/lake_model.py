"""The encoder of the lake of `lake.py`: directions of words, or of whole texts. Its file is copied into model folders.

Shapes: B texts, D = `WIDTH`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

DIMS = (16, 32)
WIDTH = DIMS[-1]
Floats = npt.NDArray[np.float64]


class Words:
    """What `encoder.json` names; `model.json` beside it says which model this is."""

    def __init__(self, device: str) -> None:
        """Read the number of the model, and whether it is blind."""
        self._model = json.loads((Path(__file__).parent / "model.json").read_text())

    def encode(self, texts: Sequence[str], side: str) -> Floats:
        """Encode B texts to (B, D)."""
        return np.stack([vector_of(text, **self._model) for text in texts])


def vector_of(text: str, number: int, *, is_blind: bool) -> Floats:
    """Return the vector (D,) of a text.

    Args:
        text: Words.
        number: Of the model. Two that are not blind differ by a rotation of each rung of the ladder.
        is_blind: Whether like texts have unlike vectors.
    """
    if is_blind:
        return _direction(f"{number} {text}")
    words = text.split()
    single = np.sum([_direction(word) for word in words], axis=0)
    pairs = np.sum([np.zeros(WIDTH), *(_direction(" ".join(two)) for two in pairwise(words))], axis=0)
    return np.concatenate(
        [part @ turn for part, turn in zip(np.split(single + pairs / 2, 2), _turns(number), strict=True)]
    )


@cache
def _direction(word: str) -> Floats:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8])
    return np.random.default_rng(seed).standard_normal(WIDTH) / np.sqrt(1 + np.arange(WIDTH))


@cache
def _turns(number: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(number)
    first, second = (np.linalg.qr(rng.standard_normal((WIDTH // 2, WIDTH // 2)))[0] for _ in range(2))
    return first, second
