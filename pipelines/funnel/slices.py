"""Search a plan's stages with FAISS on all cores: the vectors are split into slices, and each thread searches one.

Owns the slices, their threads, and how many slices are useful. Owns no table and no row ids: it deals in positions over
all slices. Rows are dealt to the slices in turn, because neighbouring rows often belong together. Immutable once built,
so any number of threads may search.

FAISS searches for one query on one thread. Two threads of one core share the units that compare codes, and a virtual
machine does not tell which of its cores are such threads. But where codes do not fit into the cache, threads wait for
memory, and they can wait at the same time. So `useful_slices` measures the gain, once per process and size.

Shapes: B queries, N vectors, D full width, K candidates.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np

from pipelines.funnel.faiss_stages import (
    Index,
    Positions,
    chain_stages,
    code_bytes,
    copy_index,
    faiss,
    full_vector_store,
    full_vectors,
    one_thread,
    search_stages,
)
from pipelines.vectors.arrays import Floats, Halves
from schemas.plans import Plan

R = TypeVar("R")

# Fewer rows than this are not worth a slice of their own.
SLICE_ROWS = 16_384
_MAX_SLICES = 8
_SCALE_BYTES = 4
# By chance, some slices hold more of the best K than others. So each returns this much more than its share.
_UNEVEN = 1.25
_FEW = 16
# The measurement compares 64 4-bit codes (32 bytes) a vector.
_CODES, _CODE_BYTES, _MAX_MEGABYTES, _ROUNDS = 64, 32, 256, 9


class FaissSlices:
    """Filled stages in S slices: slice s holds the vectors at positions s, s + S, s + 2S and so on.

    Attributes:
        bytes_per_vector: Bytes that a vector takes over all stages.
    """

    def __init__(self, stages: Sequence[Sequence[Index]], stores: Sequence[Index] = ()) -> None:
        """Chain the stages of each slice.

        Args:
            stages: The stages of each slice, without the last.
            stores: The full vectors of each slice; empty if they are not in RAM.
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
        cls,
        empty: Sequence[Index],
        blocks: Iterable[Halves],
        rows: int,
        stores: Sequence[Index] | None = None,
        count: int | None = None,
    ) -> FaissSlices:
        """Fill the slices.

        Args:
            empty: One trained, empty index per stage, without the last.
            blocks: float16 unit rows (B, D).
            rows: Their total number.
            stores: The full vectors of each slice: empty ones are filled here, those of `fill_stores` are used as they
                are. None keeps no full vectors in RAM.
            count: Number of slices; default: as many as are useful.
        """
        stages = [[copy_index(stage) for stage in empty] for _ in range(count or slice_count(rows, empty[0].d))]
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
        keeps = self._keeps(plan, k)
        mine = min(k, keeps[-1])
        products_BK, positions_BK = self._merge(
            lambda chain: search_stages(chain, plan, query_BD, [*keeps, min(mine, chain.ntotal)]),
            self._full,
            query_BD,
            k,
        )
        return np.where(positions_BK < 0, -np.inf, products_BK * self._scale_N[positions_BK]), positions_BK

    def candidates(self, plan: Plan, query_BD: Floats, stages: int | None = None) -> tuple[Floats, Positions]:
        """Return the scores and positions (B, keep) that the first stages find; see `StageIndex`."""
        coarse = plan.stages[: stages or -1]
        keeps = [self._share(stage.keep) for stage in coarse]
        chains = [mine[len(coarse) - 1] for mine in self._levels]
        keep = coarse[-1].keep
        return self._merge(lambda chain: search_stages(chain, plan, query_BD, keeps), chains, query_BD, keep)

    def ranked(self, plan: Plan, k: int) -> int:
        """Return how many full vectors `search` compares for one query; see `StageIndex`."""
        keep = self._keeps(plan, k)[-1]
        return sum(min(keep, int(chain.ntotal)) for chain in self._full)

    def vectors(self, positions_K: Positions) -> Halves:
        """Gather full vectors (K, D)."""
        count = len(self._vectors)
        out_KD = np.empty((len(positions_K), self._vectors[0].shape[1]), np.float16)
        for number, vectors_ND in enumerate(self._vectors):
            mine_K = positions_K % count == number
            out_KD[mine_K] = vectors_ND[positions_K[mine_K] // count]
        return out_KD

    def _keeps(self, plan: Plan, k: int) -> list[int]:
        """Return how many candidates each stage of one slice keeps."""
        least = min(k, 2 * plan.k + _FEW)  # any slice may hold all of the best
        return [max(least, self._share(stage.keep)) for stage in plan.stages[:-1]]

    def _share(self, keep: int) -> int:
        """Return how many of the best `keep` to ask of one slice."""
        count = len(self._levels)
        return keep if count == 1 else min(keep, math.ceil(keep / count * _UNEVEN) + count)

    def _merge(
        self, search: Callable[[Index], tuple[Floats, Positions]], chains: Sequence[Index], query_BD: Floats, keep: int
    ) -> tuple[Floats, Positions]:
        """Search one chain per slice and merge what they find, with positions over all slices."""
        found, count = _on_threads(search, chains, len(query_BD)), len(chains)
        if count == 1:
            return found[0]
        scores_BK = np.concatenate([scores for scores, _ in found], axis=1)
        moved = [np.where(at < 0, -1, at * count + number) for number, (_, at) in enumerate(found)]
        positions_BK = np.concatenate(moved, axis=1)
        order_BK = np.argsort(-scores_BK, axis=1)[:, :keep]
        return np.take_along_axis(scores_BK, order_BK, 1), np.take_along_axis(positions_BK, order_BK, 1)


def slice_count(rows: int, width: int) -> int:
    """Return the number of slices for a table, if a vector's codes take one bit per dim."""
    most = min(_MAX_SLICES, rows // SLICE_ROWS)
    return min(most, useful_slices(rows * width // 8)) if most > 1 else 1


def empty_stores(rows: int, width: int, count: int | None = None) -> list[Index]:
    """Make the last stage of every slice, empty; `count` as in `FaissSlices.build`."""
    return [full_vector_store(width) for _ in range(count or slice_count(rows, width))]


def fill_stores(blocks: Iterable[Halves], rows: int, width: int) -> list[Index]:
    """Make and fill the last stage of every slice; several plans may share it."""
    stores = empty_stores(rows, width)
    _deal(blocks, [[store] for store in stores])
    return stores


def _deal(blocks: Iterable[Halves], slices: Sequence[Sequence[Index]]) -> None:
    """Deal the rows to the slices in turn; each row goes into all indexes of its slice."""
    dealt = 0
    for block_BD in blocks:
        for number, indexes in enumerate(slices):
            part_BD = block_BD[(number - dealt) % len(slices) :: len(slices)].astype(np.float32)
            for index in indexes:
                index.add(part_BD)
        dealt += len(block_BD)


def _scales(vectors_ND: Halves) -> Floats:
    """Return the factors (N,) that give half-precision rows unit length again."""
    out_N = np.empty(len(vectors_ND), np.float32)
    for start in range(0, len(vectors_ND), SLICE_ROWS):
        lengths = np.linalg.norm(vectors_ND[start : start + SLICE_ROWS].astype(np.float32), axis=1)
        out_N[start : start + SLICE_ROWS] = 1 / np.maximum(lengths, np.finfo(np.float32).tiny)
    return out_N


def _on_threads(search: Callable[[Index], R], chains: Sequence[Index], queries: int) -> list[R]:
    """Search all chains at once, the first on the calling thread.

    With one chain and many queries, FAISS uses its own threads.
    """
    if len(chains) == 1 and queries > 1:
        return [search(chains[0])]
    others = [_threads().submit(_on_one_thread, search, chain) for chain in chains[1:]]
    return [_on_one_thread(search, chains[0]), *(other.result() for other in others)]


def _on_one_thread(search: Callable[[Index], R], chain: Index) -> R:
    with one_thread():
        return search(chain)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="funnel")


def useful_slices(code_bytes: int) -> int:
    """Return the number of slices for codes of this total size: the measured speed-up of one query."""
    megabytes = 1 << max(0, code_bytes - 1 >> 20).bit_length()
    return _speed_up(min(_MAX_MEGABYTES, megabytes), len(os.sched_getaffinity(0)))


@cache
def _speed_up(megabytes: int, cores: int) -> int:
    """Measure how many times as fast one query is when all cores share the codes."""
    if cores == 1:
        return 1
    with ThreadPoolExecutor(cores) as pool, one_thread():
        whole, *parts = _codes(megabytes << 20), *(_codes((megabytes << 20) // cores) for _ in range(cores))
        alone = _median_s(lambda: _search_codes(whole))
        together = _median_s(lambda: list(pool.map(_search_codes, parts)))
    return min(cores, max(1, round(alone / together)))


def _codes(size: int) -> Index:
    """Make an index of arbitrary codes of `size` bytes."""
    index = faiss.index_factory(_CODES, f"PQ{_CODES}x4fs", faiss.METRIC_INNER_PRODUCT)
    index.train(np.random.default_rng(0).standard_normal((1_024, _CODES), np.float32))
    rows = size // _CODE_BYTES
    index.codes.resize(rows * _CODE_BYTES)
    faiss.rev_swig_ptr(index.codes.get(), rows * _CODE_BYTES)[:] = 0x5A  # unwritten pages would not be read from memory
    index.ntotal = index.ntotal2 = rows
    return index


def _search_codes(index: Index) -> None:
    with one_thread():
        index.search(np.ones((1, _CODES), np.float32), 100)


def _median_s(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
