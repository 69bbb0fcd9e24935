"""Damage files step by step, and know which of the original bytes are still in place."""

from __future__ import annotations

import signal
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import numpy.typing as npt

_STACKED_AT_MOST = 4
_HANGS_AFTER_S = 300


@dataclass(frozen=True)
class Mutant:
    """A damaged file.

    Attributes:
        data: Its bytes.
        origin: For each byte, its offset in the undamaged file; -1 for new bytes.
        steps: Names of the mutations that made it.
    """

    data: bytes
    origin: npt.NDArray[np.int64]
    steps: tuple[str, ...] = ()

    def holds(self, start: int, stop: int) -> bool:
        """Return whether the bytes from `start` to `stop` of the undamaged file are all there, in one piece."""
        at = np.flatnonzero(self.origin == start)
        if not len(at):
            return stop == start
        return bool(np.array_equal(self.origin[at[0] : at[0] + stop - start], np.arange(start, stop)))

    @property
    def first_damage(self) -> int:
        """Return the offset of the first byte that differs from the undamaged file."""
        wrong = np.flatnonzero(self.origin != np.arange(len(self.origin)))
        return int(wrong[0]) if len(wrong) else len(self.origin)


def sound(data: bytes) -> Mutant:
    """Return a file without damage."""
    return Mutant(data, np.arange(len(data)))


def grow(
    seed: bytes,
    count: int,
    outcome: Callable[[Mutant], Hashable],
    rng: np.random.Generator,
    kinds: list[str] | None = None,
) -> Iterator[Mutant]:
    """Yield `count` mutants, each checked by `outcome`; mutants with a new outcome are damaged further."""
    corpus, seen = [sound(seed)], set()
    for _ in range(count):
        parent = corpus[rng.integers(len(corpus))]
        mutant = parent
        for _ in range(rng.integers(1, _STACKED_AT_MOST)):
            mutant = mutate(mutant, rng, kinds)
        with _alarm_if_it_hangs(mutant):
            what = outcome(mutant)
        if what not in seen:
            seen.add(what)
            corpus.append(mutant)
        yield mutant


def mutate(mutant: Mutant, rng: np.random.Generator, kinds: list[str] | None = None) -> Mutant:
    """Damage a file once more, at a random offset and in a random way."""
    kind = str(rng.choice(kinds or list(_KINDS)))
    data = np.frombuffer(mutant.data, np.uint8).copy()
    if len(data) < 2:
        return mutant
    data, origin = _KINDS[kind](data, mutant.origin.copy(), rng)
    return Mutant(data.tobytes(), origin, (*mutant.steps, kind))


Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


def _random_range(size: int, rng: np.random.Generator, longest: int = 2000) -> tuple[int, int]:
    start = int(rng.integers(size))
    return start, min(size, start + int(rng.integers(1, 1 + min(longest, max(1, int(2 ** rng.uniform(0, 11)))))))


def _flip(data: Bytes, origin: Places, rng: np.random.Generator) -> tuple[Bytes, Places]:
    at = int(rng.integers(len(data)))
    data[at] ^= np.uint8(1 << rng.integers(8))
    origin[at] = -1
    return data, origin


def _overwrite(data: Bytes, origin: Places, rng: np.random.Generator) -> tuple[Bytes, Places]:
    start, stop = _random_range(len(data), rng)
    fill = rng.choice(["noise", "zeros", "ones"])
    data[start:stop] = {"noise": rng.integers(0, 256, stop - start), "zeros": 0, "ones": 255}[str(fill)]
    origin[start:stop] = -1
    return data, origin


def _truncate(data: Bytes, origin: Places, rng: np.random.Generator) -> tuple[Bytes, Places]:
    keep = int(rng.integers(1, len(data)))
    return data[:keep], origin[:keep]


def _delete(data: Bytes, origin: Places, rng: np.random.Generator) -> tuple[Bytes, Places]:
    start, stop = _random_range(len(data), rng)
    return np.delete(data, slice(start, stop)), np.delete(origin, slice(start, stop))


def _insert(data: Bytes, origin: Places, rng: np.random.Generator) -> tuple[Bytes, Places]:
    at = int(rng.integers(len(data)))
    new = rng.integers(0, 256, int(rng.integers(1, 600))).astype(np.uint8)
    return np.insert(data, at, new), np.insert(origin, at, np.full(len(new), -1))


def _splice(data: Bytes, origin: Places, rng: np.random.Generator) -> tuple[Bytes, Places]:
    start, stop = _random_range(len(data), rng)
    at = int(rng.integers(len(data)))
    return np.insert(data, at, data[start:stop]), np.insert(origin, at, np.full(stop - start, -1))


def _number(data: Bytes, origin: Places, rng: np.random.Generator) -> tuple[Bytes, Places]:
    """Overwrite bytes with an extreme number, as a length field might hold it."""
    width = int(rng.choice([1, 2, 4, 8]))
    at = int(rng.integers(max(1, len(data) - width)))
    value = int(rng.choice([0, 1, 127, 128, 255])) if width == 1 else int(rng.choice([0, 1, 2**15, 2**16 - 1]))
    order = "little" if rng.random() < 0.5 else "big"
    new = np.frombuffer(value.to_bytes(width, order), np.uint8)[: len(data) - at]
    data[at : at + width] = new
    origin[at : at + width] = -1
    return data, origin


_KINDS: dict[str, Callable[[Bytes, Places, np.random.Generator], tuple[Bytes, Places]]] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "truncate": _truncate,
    "delete": _delete,
    "insert": _insert,
    "splice": _splice,
    "number": _number,
}
IN_PLACE = ["flip", "overwrite", "number"]


@contextmanager
def _alarm_if_it_hangs(mutant: Mutant) -> Iterator[None]:
    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"hangs on a mutant made by {mutant.steps}")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
