"""A funnel's vectors dealt out to slices, each searched by one thread: what makes a single query use every core.

Owns positions over all slices, and the threads; owns no table and no row ids. Rows are dealt out in turn, so that
neighbours that were written together do not fall into one slice. Immutable once built, so that any number of threads
may search. Shapes: B queries, N vectors, D full width, K candidates.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
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
# The best K of all are spread over the slices evenly up to chance, for which this leaves room.
_UNEVEN = 1.25


class Slices:
    """Filled chains: slice s of S holds the vectors at positions s, s + S, s + 2S and so on."""

    def __init__(self, chains: Sequence[Index]) -> None:
        """Search these chains as one."""
        self._chains = tuple(chains)
        self._vectors: list[Halves] = [full_vectors(chain) for chain in chains]
        self._scale_N = np.empty(sum(map(len, self._vectors)), np.float32)
        for number, vectors_ND in enumerate(self._vectors):
            self._scale_N[number :: len(chains)] = _scales(vectors_ND)

    @classmethod
    def build(cls, empty: Sequence[Index], blocks: Iterable[Halves], rows: int, stores: Sequence[Index] = ()) -> Slices:
        """Fill a slice per core, fewer where they would be small.

        Args:
            empty: One trained empty index per stage but the last.
            blocks: float16 unit rows (B, D).
            rows: How many they are in all.
            stores: What `fill_stores` made of the same rows, to share; default is to fill new ones.
        """
        count = slice_count(rows)
        stages = [[duplicate(stage) for stage in empty] for _ in range(count)]
        filled = list(stores) or [make_store(empty[0].d) for _ in range(count)]
        growing = stages if stores else [[*mine, store] for mine, store in zip(stages, filled, strict=True)]
        _deal(blocks, growing)
        return cls([join([*mine, store]) for mine, store in zip(stages, filled, strict=True)])

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._scale_N)

    def search(self, plan: Plan, query_BD: Floats, k: int) -> tuple[Floats, Positions]:
        """Return true cosines and positions (B, ≤ k), best first; -inf and -1 where there are fewer."""
        if not len(self):
            return np.empty((len(query_BD), 0), np.float32), np.empty((len(query_BD), 0), np.int64)
        mine = plan.keeping(max(k, self._share(plan.stages[0].keep)))
        products_BK, positions_BK = self._merge(
            lambda chain: search_chain(chain, mine, query_BD, min(k, chain.ntotal)), len(query_BD), k
        )
        return np.where(positions_BK < 0, -np.inf, products_BK * self._scale_N[positions_BK]), positions_BK

    def candidates(self, plan: Plan, query_BD: Floats) -> Positions:
        """Return the (B, keep) positions that the first stage alone finds, best first; -1 where there are fewer."""
        keep = plan.stages[0].keep
        mine = plan.keeping(self._share(keep))
        return self._merge(lambda chain: search_first(chain, mine, query_BD), len(query_BD), keep)[1]

    def scores(self, query_D: Floats, positions_K: Positions) -> Floats:
        """Return true cosines (K,) of a unit query (D,) with vectors."""
        parts = [np.empty(0, np.float32)]
        for start in range(0, len(positions_K), SLICE_ROWS):
            at = positions_K[start : start + SLICE_ROWS]
            parts.append(self.vectors(at).astype(np.float32) @ query_D * self._scale_N[at])
        return np.concatenate(parts)

    def vectors(self, positions_K: Positions) -> Halves:
        """Gather full vectors (K, D)."""
        count = len(self._chains)
        out_KD = np.empty((len(positions_K), self._vectors[0].shape[1]), np.float16)
        for number, vectors_ND in enumerate(self._vectors):
            mine_K = positions_K % count == number
            out_KD[mine_K] = vectors_ND[positions_K[mine_K] // count]
        return out_KD

    def _share(self, keep: int) -> int:
        count = len(self._chains)
        return keep if count == 1 else min(keep, math.ceil(keep / count * _UNEVEN) + count)

    def _merge(
        self, search: Callable[[Index], tuple[Floats, Positions]], queries: int, keep: int
    ) -> tuple[Floats, Positions]:
        found, count = _on_threads(search, self._chains, queries), len(self._chains)
        if count == 1:
            return found[0]
        scores_BK = np.concatenate([scores for scores, _ in found], axis=1)
        moved = [np.where(at < 0, -1, at * count + number) for number, (_, at) in enumerate(found)]
        positions_BK = np.concatenate(moved, axis=1)
        order_BK = np.argsort(-scores_BK, axis=1)[:, :keep]
        return np.take_along_axis(scores_BK, order_BK, 1), np.take_along_axis(positions_BK, order_BK, 1)


def slice_count(rows: int) -> int:
    """Return how many slices rows are dealt out to."""
    return max(1, min(len(os.sched_getaffinity(0)), _MOST_SLICES, rows // SLICE_ROWS))


def fill_stores(blocks: Iterable[Halves], rows: int, width: int) -> list[Index]:
    """Fill the last stage of every slice, for many plans to share."""
    stores = [make_store(width) for _ in range(slice_count(rows))]
    _deal(blocks, [[store] for store in stores])
    return stores


def _deal(blocks: Iterable[Halves], slices: Sequence[Sequence[Index]]) -> None:
    """Add every row to all indexes of the slice whose turn it is."""
    dealt = 0
    for block_BD in blocks:
        for number, indexes in enumerate(slices):
            part_BD = block_BD[(number - dealt) % len(slices) :: len(slices)].astype(np.float32)
            for index in indexes:
                index.add(part_BD)
        dealt += len(block_BD)


def _scales(vectors_ND: Halves) -> Floats:
    """What makes each half-precision row unit length again."""
    out_N = np.empty(len(vectors_ND), np.float32)
    for start in range(0, len(vectors_ND), SLICE_ROWS):
        lengths = np.linalg.norm(vectors_ND[start : start + SLICE_ROWS].astype(np.float32), axis=1)
        out_N[start : start + SLICE_ROWS] = 1 / np.maximum(lengths, np.finfo(np.float32).tiny)
    return out_N


def _on_threads(search: Callable[[Index], R], chains: Sequence[Index], queries: int) -> list[R]:
    """Search every chain at once, the first in the calling thread. FAISS's own threads help only with many queries."""
    if len(chains) == 1 and queries > 1:
        return [search(chains[0])]
    others = [_threads().submit(_alone, search, chain) for chain in chains[1:]]
    return [_alone(search, chains[0]), *(other.result() for other in others)]


def _alone(search: Callable[[Index], R], chain: Index) -> R:
    with one_thread():
        return search(chain)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="funnel")
