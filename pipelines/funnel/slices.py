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

from pipelines.funnel.cores import useful_slices
from pipelines.funnel.faiss_stages import (
    Floats,
    Halves,
    Index,
    Positions,
    chain_stages,
    code_bytes,
    copy_index,
    full_vector_store,
    full_vectors,
    one_thread,
    search_stages,
)
from schemas.plans import Plan

R = TypeVar("R")

SLICE_ROWS = 16_384
_MOST_SLICES = 8
_SCALE_BYTES = 4
# The best K of all are spread over the slices evenly up to chance, for which this leaves room.
_UNEVEN = 1.25


class FaissSlices:
    """Filled stages: slice s of S holds the vectors at positions s, s + S, s + 2S and so on.

    Attributes:
        bytes_per_vector: Bytes that a vector takes over all stages.
    """

    def __init__(self, stages: Sequence[Sequence[Index]], stores: Sequence[Index] = ()) -> None:
        """Search these slices as one.

        Args:
            stages: Each slice's stages but the last.
            stores: Each slice's full vectors; none where they are not in RAM.
        """
        self._levels = [chain_stages(mine) for mine in stages]
        self._rows = sum(int(mine[0].ntotal) for mine in stages)
        self.bytes_per_vector = sum(map(code_bytes, [*stages[0], *stores[:1]])) + (_SCALE_BYTES if stores else 0)
        self._vectors: list[Halves] = [full_vectors(store) for store in stores]
        if stores:
            self._full = [chain_stages([*mine, store])[-1] for mine, store in zip(stages, stores, strict=True)]
            self._scale_N = np.empty(self._rows, np.float32)
            for number, vectors_ND in enumerate(self._vectors):
                self._scale_N[number :: len(stores)] = _scales(vectors_ND)

    @classmethod
    def build(
        cls, empty: Sequence[Index], blocks: Iterable[Halves], rows: int, stores: Sequence[Index] | None = None
    ) -> FaissSlices:
        """Fill as many slices as are useful, fewer where they would be small.

        Args:
            empty: One trained empty index per stage but the last.
            blocks: float16 unit rows (B, D).
            rows: How many they are in all.
            stores: Where each slice's full vectors are; filled unless they are already, as `fill_stores` does. None
                holds none in RAM.
        """
        stages = [[copy_index(stage) for stage in empty] for _ in range(slice_count(rows, empty[0].d))]
        growing = stages
        if stores and not any(store.ntotal for store in stores):
            growing = [[*mine, store] for mine, store in zip(stages, stores, strict=True)]
        _deal(blocks, growing)
        return cls(stages, stores or ())

    def __len__(self) -> int:
        """Return the number of vectors."""
        return self._rows

    @property
    def holds_vectors(self) -> bool:
        """Whether the full vectors are in RAM."""
        return bool(self._vectors)

    def search(self, plan: Plan, query_BD: Floats, k: int) -> tuple[Floats, Positions]:
        """Return true cosines and positions (B, ≤ k), best first; -inf and -1 where there are fewer."""
        if not len(self):
            return np.empty((len(query_BD), 0), np.float32), np.empty((len(query_BD), 0), np.int64)
        keeps = [max(k, self._share(stage.keep)) for stage in plan.stages[:-1]]
        products_BK, positions_BK = self._merge(
            lambda chain: search_stages(chain, plan, query_BD, [*keeps, min(k, chain.ntotal)]), self._full, query_BD, k
        )
        return np.where(positions_BK < 0, -np.inf, products_BK * self._scale_N[positions_BK]), positions_BK

    def candidates(self, plan: Plan, query_BD: Floats, stages: int | None = None) -> Positions:
        """Return the positions (B, keep) that so many first stages find, as `StageIndex` says."""
        coarse = plan.stages[: stages or -1]
        keeps = [self._share(stage.keep) for stage in coarse]
        chains = [mine[len(coarse) - 1] for mine in self._levels]
        keep = coarse[-1].keep
        found = self._merge(lambda chain: search_stages(chain, plan, query_BD, keeps), chains, query_BD, keep)
        return found[1]

    def vectors(self, positions_K: Positions) -> Halves:
        """Gather full vectors (K, D)."""
        count = len(self._vectors)
        out_KD = np.empty((len(positions_K), self._vectors[0].shape[1]), np.float16)
        for number, vectors_ND in enumerate(self._vectors):
            mine_K = positions_K % count == number
            out_KD[mine_K] = vectors_ND[positions_K[mine_K] // count]
        return out_KD

    def _share(self, keep: int) -> int:
        count = len(self._levels)
        return keep if count == 1 else min(keep, math.ceil(keep / count * _UNEVEN) + count)

    def _merge(
        self, search: Callable[[Index], tuple[Floats, Positions]], chains: Sequence[Index], query_BD: Floats, keep: int
    ) -> tuple[Floats, Positions]:
        found, count = _on_threads(search, chains, len(query_BD)), len(chains)
        if count == 1:
            return found[0]
        scores_BK = np.concatenate([scores for scores, _ in found], axis=1)
        moved = [np.where(at < 0, -1, at * count + number) for number, (_, at) in enumerate(found)]
        positions_BK = np.concatenate(moved, axis=1)
        order_BK = np.argsort(-scores_BK, axis=1)[:, :keep]
        return np.take_along_axis(scores_BK, order_BK, 1), np.take_along_axis(positions_BK, order_BK, 1)


def slice_count(rows: int, width: int) -> int:
    """Return how many slices vectors are dealt out to, if a vector's codes take a bit a dim."""
    most = min(_MOST_SLICES, rows // SLICE_ROWS)
    return min(most, useful_slices(rows * width // 8)) if most > 1 else 1


def empty_stores(rows: int, width: int) -> list[Index]:
    """Make the last stage of every slice."""
    return [full_vector_store(width) for _ in range(slice_count(rows, width))]


def fill_stores(blocks: Iterable[Halves], rows: int, width: int) -> list[Index]:
    """Fill the last stage of every slice, for many plans to share."""
    stores = empty_stores(rows, width)
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
