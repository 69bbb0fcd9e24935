"""Encode each content of a run once: what an actor has encoded already is taken over, within bounded memory.

Owns neither the encoder nor what the table holds (`reuse.py`).

Shapes: N samples of a window, M inputs that it has, D full width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.embedding.feeder import Window
from pipelines.embedding.reuse import SHARE_OF_STORED
from pipelines.encoders import BadSample
from pipelines.vectors.arrays import Floats, Halves, to_half
from schemas.columns import INPUT_HASH
from schemas.config import EmbedConfig

_BYTES_PER_ENTRY = 160  # of a dict of hashes, without the vector
Encode = Callable[[Window, npt.NDArray[np.int64]], tuple[Floats, npt.NDArray[np.bool_], dict[int, BadSample]]]
"""Encodes the chosen inputs of a window."""


class RunVectors:
    """The vectors that an actor has encoded, by the hash of the input, within bounded memory: when full, it forgets.

    Attributes:
        width: D.
    """

    def __init__(self, config: EmbedConfig, width: int) -> None:
        """Start empty."""
        nbytes = (1 - SHARE_OF_STORED) * config.reuse.memory_bytes
        self.width = width
        self._most = int(nbytes // (_BYTES_PER_ENTRY + 2 * width))
        self._lock = threading.Lock()
        self._blocks: list[Halves] = []
        self._places: dict[bytes, tuple[int, int]] = {}

    def find(self, hashes: Sequence[bytes]) -> dict[int, npt.NDArray[np.float16]]:
        """Return the vectors (D,) that are known, by position."""
        with self._lock:
            places = [self._places.get(one) for one in hashes]
            return {n: self._blocks[place[0]][place[1]] for n, place in enumerate(places) if place is not None}

    def add(self, hashes: Sequence[bytes], vectors_ND: Halves) -> None:
        """Remember vectors."""
        with self._lock:
            if len(self._places) + len(hashes) > self._most:
                self._blocks, self._places = [], {}
            if len(hashes) <= self._most:
                block = len(self._blocks)
                self._blocks.append(vectors_ND)
                self._places.update(zip(hashes, ((block, row) for row in range(len(hashes))), strict=True))


@dataclass(frozen=True)
class WindowVectors:
    """The vectors of a window's N samples.

    Attributes:
        vectors_ND: As they are stored.
        is_good_N: Whether each sample has one.
        bad: Why the others have none, by position.
        reused: How many were not encoded.
    """

    vectors_ND: Halves
    is_good_N: npt.NDArray[np.bool_]
    bad: dict[int, BadSample]
    reused: int


def encode_new(window: Window, run: RunVectors, encode: Encode, rotate: Callable[[Floats], Floats]) -> WindowVectors:
    """Encode each content of a window that is neither in the table nor encoded already, once.

    Args:
        window: Its rows have hashes.
        run: What the actor has encoded; takes what is new.
        encode: Encodes the chosen inputs of a window.
        rotate: Rotates vectors if the space is rotated.
    """
    hashes = [one for rows in window.rows for one in rows[INPUT_HASH].to_pylist()]
    is_known_N = np.concatenate([np.empty(0, bool), *window.is_known])
    asked = np.flatnonzero(~is_known_N)  # the samples whose inputs the window has, M
    names = [hashes[place] for place in asked]
    before = run.find(names)
    first: dict[bytes, int] = {}
    same_as = [first.setdefault(name, place) for place, name in enumerate(names)]
    chosen = np.array([p for p, of in enumerate(same_as) if p == of and p not in before], np.int64)
    encoded_MD, is_good_M, bad_M = encode(window, chosen)
    halves_MD: Halves = np.zeros((len(names), run.width), np.float16)
    if encoded_MD.shape[1]:
        halves_MD = to_half(rotate(encoded_MD))
        good = chosen[is_good_M[chosen]]
        is_all = len(good) == len(names)
        run.add(names if is_all else [names[place] for place in good], halves_MD if is_all else halves_MD[good])
    encoded = int(is_good_M.sum())
    for place, vector_D in before.items():
        halves_MD[place], is_good_M[place] = vector_D, True
    copies = [place for place, of in enumerate(same_as) if place != of and place not in before]
    for place in copies:
        of = same_as[place]
        halves_MD[place], is_good_M[place] = halves_MD[of], is_good_M[of]
        if of in bad_M:
            bad_M[place] = bad_M[of]
    window.units -= int(np.concatenate([np.empty(0, np.int64), *window.costs])[[*before, *copies]].sum())
    vectors_ND = halves_MD
    if is_known_N.any():
        vectors_ND = np.zeros((len(hashes), run.width), np.float16)
        vectors_ND[asked], vectors_ND[is_known_N] = halves_MD, np.concatenate([halves_MD[:0], *window.known])
    is_good_N = is_known_N.copy()
    is_good_N[asked] = is_good_M
    reused = int(is_good_N.sum()) - encoded
    return WindowVectors(vectors_ND, is_good_N, {int(asked[place]): why for place, why in bad_M.items()}, reused)
