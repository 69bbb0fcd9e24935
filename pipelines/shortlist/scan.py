"""Streaming a table through the exact search within a memory budget.

Owns which column is read, in what pieces, and how large the pieces may be. Owns no arithmetic (`exact.py`) and no
results (`lists.py`).

Shapes: Q queries, N rows of a chunk, D width of the column that is read.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance import LanceDataset

from pipelines.shortlist.agreement import Agreement, agreement
from pipelines.shortlist.exact import BLOCK_ROWS, Best, ExactSearch
from pipelines.storage.prefetch import Prefetcher
from pipelines.tables.prefixes import plan_prefixes
from pipelines.tables.rows import scan_small_batches
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from schemas.columns import VECTOR, prefix_column
from schemas.config import ExactConfig
from schemas.errors import ConfigError

# What a Ray worker holds once torch, Lance and Arrow are imported, and what Lance's first scan adds to that.
_LIBRARY_BYTES = 440 << 20
_SCAN_BYTES = 56 << 20
_SMALL_BUDGET_BYTES = 1 << 30
_LEAST_CHUNK_ROWS = 256
_MOST_CHUNK_ROWS = 1 << 16
_MOST_QUERIES = 4096
_READ_ROWS = 2048
_LIBC = ctypes.CDLL(None)
_M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Slice:
    """Which rows of a table to search.

    Attributes:
        fragments: Ids of the fragments; None is all.
        where: SQL that rows must satisfy.
        column: `vector`, or a prefix column that is at least as wide as the widest dim.
    """

    fragments: tuple[int, ...] | None = None
    where: str | None = None
    column: str = VECTOR


def search_table(
    table: VectorTable,
    queries_QD: npt.NDArray[np.floating],
    dims: Sequence[int],
    k: int,
    exact: ExactConfig = ExactConfig(),
    memory_bytes: int = 2 << 30,
) -> dict[int, Best]:
    """Return the exact K nearest rows of each query at each dim, in one pass over the table.

    Args:
        table: The table.
        queries_QD: Queries of the table's space at full width.
        dims: Rungs of its ladder.
        k: Rows for each query at each dim.
        exact: Precision and device.
        memory_bytes: What the process may hold at its peak.

    Raises:
        DimError: The space must not be cut to one of the dims.

    Example:
        >>> best = search_table(table, queries_QD, dims=(64, 768), k=100)  # doctest: +SKIP
        >>> best[64].ids, best[64].scores_QK  # doctest: +SKIP
    """
    for dim in dims:
        table.space.ladder.check(dim, table.uri)
    search = ExactSearch(queries_QD, dims, k, exact)
    part = Slice(column=column_for(table, dims))
    rows = chunk_rows(table.space.ladder.width, len(queries_QD), dims, k, memory_bytes)
    for ids, vectors_ND in read_chunks(table.dataset, part, rows):
        search.add(ids, vectors_ND)
    return search.best


def measure_agreement(
    table: VectorTable, queries_QD: npt.NDArray[np.floating], dims: Sequence[int], k: int = 100
) -> Agreement:
    """Compare the exact shortlists of some queries at several dims with those at the full width.

    Example:
        >>> measure_agreement(table, queries_QD, dims=(64, 128)).least_dim(0.9)  # doctest: +SKIP
    """
    best = search_table(table, queries_QD, [*dims, table.space.ladder.width], k)
    return agreement({dim: found.ids for dim, found in best.items()}, len(queries_QD))


def column_for(table: VectorTable, dims: Sequence[int]) -> str:
    """Return the narrowest column that serves all dims: the widest dim's own prefix where every row has it."""
    widest = max(dims)
    if widest in table.prefix_dims and not plan_prefixes(table, [widest]):
        return prefix_column(widest)
    return VECTOR


def read_chunks(dataset: LanceDataset, part: Slice, rows: int) -> Iterator[tuple[pa.Array, npt.NDArray[np.float16]]]:
    """Yield ids and vectors, so many rows at a time; a chunk's vectors are valid until the next is asked for."""
    vectors_ND = np.empty((rows, dataset.schema.field(part.column).type.list_size), np.float16)
    ids: list[pa.Array] = []
    filled = 0
    batches = scan_small_batches(
        dataset, ["id", part.column], min(rows, _READ_ROWS), fragments=part.fragments, where=part.where
    )
    for batch in Prefetcher(batches, depth=1, name="read vectors"):
        taken = 0
        while taken < batch.num_rows:
            piece = batch.slice(taken, rows - filled)
            vectors_ND[filled : filled + piece.num_rows] = to_numpy(piece.column(part.column))
            ids.append(piece.column("id"))
            taken += piece.num_rows
            filled += piece.num_rows
            if filled == rows:
                yield pa.concat_arrays(ids), vectors_ND
                ids, filled = [], 0
    if filled:
        yield pa.concat_arrays(ids), vectors_ND[:filled]


def chunk_rows(width: int, queries: int, dims: Sequence[int], k: int, memory_bytes: int) -> int:
    """Return how many rows a chunk may have for this process to stay within the budget.

    Raises:
        ConfigError: The budget does not hold even a small chunk.
    """
    held = _resident_bytes() + _SCAN_BYTES + _query_bytes(width, dims, k) * queries
    row_bytes = 4 * width + 8 * max(dims) + 128
    block_row_bytes = 14 * width
    free = memory_bytes - held
    rows = (free - BLOCK_ROWS * block_row_bytes) // row_bytes
    if rows < BLOCK_ROWS:
        rows = min(BLOCK_ROWS, free // (row_bytes + block_row_bytes))
    if rows < _LEAST_CHUNK_ROWS:
        least = ((held + _LEAST_CHUNK_ROWS * (row_bytes + block_row_bytes)) >> 20) + 1
        raise ConfigError(
            f"memory_bytes = {memory_bytes} does not hold {queries} queries at dims {tuple(dims)} with k = {k}; "
            f"allowed: {least << 20} or more; or ask for fewer dims or a smaller k"
        )
    return int(min(rows, _MOST_CHUNK_ROWS))


def free_at_once(memory_bytes: int) -> None:
    """Have this process hand large arrays back to the system as they are freed, if the budget is small.

    glibc keeps them in its heaps else, where they add up to some 30 MB. It lasts as long as the process and costs page
    faults, so it is for workers, and not for large budgets.
    """
    if memory_bytes < _SMALL_BUDGET_BYTES and hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_MMAP_THRESHOLD, 256 << 10)


def query_block(width: int, dims: Sequence[int], k: int, memory_bytes: int) -> int:
    """Return how many queries to search at once: as many as a third of the budget holds, 4,096 at most.

    More queries at once make better use of every row that is read; more than that gain nothing.
    """
    third = (memory_bytes - _LIBRARY_BYTES - _SCAN_BYTES) // 3
    return max(64, min(_MOST_QUERIES, third // _query_bytes(width, dims, k)))


@cache
def _resident_bytes() -> int:
    """Bytes that the process held before its first search; what a search frees, the next one takes again."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _query_bytes(width: int, dims: Sequence[int], k: int) -> int:
    """Bytes that one more query costs: its vector, its prefixes, its column of the product, its lists and hits."""
    return 4 * width + 6 * sum(dims) + 4 * BLOCK_ROWS + k * (300 + 130 * len(dims))
