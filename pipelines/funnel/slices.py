"""A funnel's vectors in contiguous slices, each searched by one thread: what makes a single query use every core.

Owns positions over all slices, and the threads; owns no table and no row ids. Immutable once built, so that any
number of threads may search. Shapes: B queries, N vectors, D full width, K candidates.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.funnel.chain import (
    Floats,
    Index,
    Positions,
    duplicate,
    full_vectors,
    join,
    make_store,
    one_thread,
    search_chain,
    search_first,
)
from pipelines.funnel.plan import Plan

Halves = npt.NDArray[np.float16]
R = TypeVar("R")

SLICE_ROWS = 16_384
_MOST_SLICES = 8
# Rows fall into slices at random, so that the best K are spread evenly up to chance, for which this leaves room.
_UNEVEN = 1.25


class Slices:
    """Filled chains, one per slice."""

    def __init__(self, chains: Sequence[Index]) -> None:
        """Search these chains as one."""
        self._chains = tuple(chains)
        self._starts = np.cumsum([0, *(chain.ntotal for chain in chains)])
        self._vectors: list[Halves] = [full_vectors(chain) for chain in chains]
        self.scale_N = np.concatenate([_scales(vectors_ND) for vectors_ND in self._vectors])

    @classmethod
    def build(
        cls,
        empty: Sequence[Index],
        blocks: Iterable[Halves],
        rows: int,
        stores: Sequence[Index] | None = None,
    ) -> Slices:
        """Fill a slice per thread.

        Args:
            empty: One trained empty index per stage but the last.
            blocks: float16 unit rows (B, D), `rows` in all.
            rows: Their number.
            stores: Filled last stages of the same slices, to share; default is to fill new ones.
        """
        bounds = slice_bounds(rows)
        count = len(bounds) - 1
        stages = [[duplicate(stage) for stage in empty] for _ in range(count)]
        filled = list(stores) if stores is not None else [make_store(empty[0].d) for _ in range(count)]
        for number, part_BD in _parts(blocks, bounds):
            part32_BD = part_BD.astype(np.float32)
            for stage in stages[number] if stores is not None else [*stages[number], filled[number]]:
                stage.add(part32_BD)
        return cls([join([*mine, store]) for mine, store in zip(stages, filled, strict=True)])

    def __len__(self) -> int:
        """Return the number of vectors."""
        return int(self._starts[-1])

    def search(self, plan: Plan, query_BD: Floats, k: int) -> tuple[Floats, Positions]:
        """Return true cosines and positions (B, ≤ k), best first; -inf and -1 where there are fewer."""
        mine = plan.keeping(max(k, self._share(plan.stages[0].keep)))
        products_BK, positions_BK = self._merge(
            lambda chain: search_chain(chain, mine, query_BD, min(k, max(1, chain.ntotal))), k
        )
        return np.where(positions_BK < 0, -np.inf, products_BK * self.scale_N[positions_BK]), positions_BK

    def candidates(self, plan: Plan, query_BD: Floats) -> Positions:
        """Return the (B, keep) positions that the first stage alone finds, best first; -1 where there are fewer."""
        keep = plan.stages[0].keep
        mine = plan.keeping(self._share(keep))
        return self._merge(lambda chain: search_first(chain, mine, query_BD), keep)[1]

    def scores(self, query_D: Floats, positions_K: Positions) -> Floats:
        """Return true cosines (K,) of a unit query (D,) with vectors."""
        parts = [np.empty(0, np.float32)]
        for start in range(0, len(positions_K), SLICE_ROWS):
            at = positions_K[start : start + SLICE_ROWS]
            parts.append(self.vectors(at).astype(np.float32) @ query_D * self.scale_N[at])
        return np.concatenate(parts)

    def vectors(self, positions: Positions) -> Halves:
        """Gather full vectors (…, D) as float16; -1 gives the last one."""
        if len(self._vectors) == 1:
            return np.take(self._vectors[0], positions, axis=0)
        wrapped = positions % len(self)
        number = np.searchsorted(self._starts, wrapped, side="right") - 1
        out = np.empty((*positions.shape, self._vectors[0].shape[1]), np.float16)
        for index, vectors_ND in enumerate(self._vectors):
            mine = number == index
            out[mine] = vectors_ND[wrapped[mine] - self._starts[index]]
        return out

    def _share(self, keep: int) -> int:
        count = len(self._chains)
        return keep if count == 1 else min(keep, math.ceil(keep / count * _UNEVEN) + count)

    def _merge(self, search: Callable[[Index], tuple[Floats, Positions]], keep: int) -> tuple[Floats, Positions]:
        found = _on_threads(search, self._chains)
        scores_BK = np.concatenate([scores for scores, _ in found], axis=1)
        moved = [np.where(at < 0, -1, at + start) for (_, at), start in zip(found, self._starts, strict=False)]
        positions_BK = np.concatenate(moved, axis=1)
        if len(found) > 1:
            order_BK = np.argsort(-scores_BK, axis=1)[:, :keep]
            scores_BK = np.take_along_axis(scores_BK, order_BK, 1)
            positions_BK = np.take_along_axis(positions_BK, order_BK, 1)
        return scores_BK, positions_BK


def _scales(vectors_ND: Halves) -> Floats:
    """What makes each half-precision row unit length again."""
    scales = [1 / np.maximum(np.linalg.norm(block.astype(np.float32), axis=1), 1e-12) for block in _blocks(vectors_ND)]
    return np.concatenate([np.empty(0, np.float32), *scales]).astype(np.float32)


def _blocks(vectors_ND: Halves) -> Iterator[Halves]:
    for start in range(0, len(vectors_ND), SLICE_ROWS):
        yield vectors_ND[start : start + SLICE_ROWS]


def slice_bounds(rows: int) -> list[int]:
    """Return where slices begin and end: a slice per core, unless they would be small."""
    count = max(1, min(len(os.sched_getaffinity(0)), _MOST_SLICES, rows // SLICE_ROWS))
    return [rows * number // count for number in range(count + 1)]


def _parts(blocks: Iterable[Halves], bounds: Sequence[int]) -> Iterator[tuple[int, Halves]]:
    at, number = 0, 0
    for block_BD in blocks:
        done = 0
        while done < len(block_BD):
            while number < len(bounds) - 2 and at >= bounds[number + 1]:
                number += 1
            room = bounds[number + 1] - at if number < len(bounds) - 2 else len(block_BD)
            part = block_BD[done : done + room]
            yield number, part
            done, at = done + len(part), at + len(part)


def _on_threads(search: Callable[[Index], R], chains: Sequence[Index]) -> list[R]:
    """Search every chain at once, the first in the calling thread."""
    if len(chains) == 1:
        return [search(chains[0])]
    others = [_threads().submit(_alone, search, chain) for chain in chains[1:]]
    return [_alone(search, chains[0]), *(other.result() for other in others)]


def _alone(search: Callable[[Index], R], chain: Index) -> R:
    with one_thread():
        return search(chain)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="funnel")
