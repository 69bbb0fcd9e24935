"""Read a table in chunks for the exact search, within a memory budget.

Owns the choice of the column, and the sizes of chunks and query blocks. Owns no arithmetic (`exact.py`) and no results
(`lists.py`).

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
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset

from pipelines.shortlist.exact import BLOCK_ROWS
from pipelines.storage.prefetch import Prefetcher
from pipelines.tables.prefixes import plan_prefixes
from pipelines.tables.rows import ROW_ID, scan_small_batches
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Halves, to_numpy
from schemas.columns import VECTOR, prefix_column
from schemas.errors import ConfigError

# RAM of a Ray worker after it has imported torch, Lance and Arrow and opened a table.
_LIBRARY_BYTES = 440 << 20
# The first scan adds this: mostly code of the libraries, which is read when it first runs.
_SCAN_BYTES = 66 << 20
_SMALL_BUDGET_BYTES = 1 << 30
_MIN_CHUNK_ROWS = 256
_MAX_CHUNK_ROWS = 1 << 16
_MAX_QUERIES = 4096
_READ_ROWS = 2048
_LIBC = ctypes.CDLL(None)
_M_MMAP_THRESHOLD = -3
_DIGITS = 20  # of a row id


@dataclass(frozen=True)
class RowSelection:
    """Name the rows of a table to search, and the column to read.

    Attributes:
        fragments: Ids of the fragments; None: all.
        where: SQL that rows must satisfy; None: no condition.
        column: `vector`, or a prefix column at least as wide as the widest dim.
    """

    fragments: tuple[int, ...] | None = None
    where: str | None = None
    column: str = VECTOR


def column_for(table: VectorTable, dims: Sequence[int]) -> str:
    """Return the narrowest column that serves all dims: the widest dim's prefix column if every row has it."""
    widest = max(dims)
    if widest in table.prefix_dims and not plan_prefixes(table, [widest]):
        return prefix_column(widest)
    return VECTOR


def read_chunks(dataset: LanceDataset, selection: RowSelection, rows: int) -> Iterator[tuple[pa.Array, Halves]]:
    """Yield names and vectors in chunks of `rows` rows; the vectors of a chunk are valid until the next one is read.

    Names are those of `row_names`.
    """
    vectors_ND = np.empty((rows, dataset.schema.field(selection.column).type.list_size), np.float16)
    ids: list[pa.Array] = []
    filled = 0
    batches = scan_small_batches(
        dataset,
        ["id", ROW_ID, selection.column],
        min(rows, _READ_ROWS),
        fragments=selection.fragments,
        where=selection.where,
    )
    for batch in Prefetcher(batches, depth=1, name="read vectors"):
        taken = 0
        while taken < batch.num_rows:
            fitting = batch.slice(taken, rows - filled)
            vectors_ND[filled : filled + fitting.num_rows] = to_numpy(fitting.column(selection.column))
            ids.append(row_names(fitting))
            taken += fitting.num_rows
            filled += fitting.num_rows
            if filled == rows:
                yield pa.concat_arrays(ids), vectors_ND
                ids, filled = [], 0
    if filled:
        yield pa.concat_arrays(ids), vectors_ND[:filled]


def row_names(rows: pa.RecordBatch | pa.Table) -> pa.Array:
    """Name rows uniquely: id, a zero, and Lance's row id in 20 digits; ordered by id.

    An id alone does not name a row: shards may share ids. A row is (shard, id, passage) with passage 0, and Lance's row
    id stands for these; it stays through updates and compaction.
    """
    digits = pc.utf8_lpad(pc.cast(rows[ROW_ID], pa.string()), _DIGITS, "0")
    names = pc.binary_join_element_wise(rows["id"], digits, "\0")
    return names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names


def split_names(names: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the ids of named rows, and their row ids as int64."""
    ids = pc.utf8_slice_codeunits(names, 0, -_DIGITS - 1)
    digits = pc.utf8_slice_codeunits(names, -_DIGITS, None)
    return ids, pc.cast(digits, pa.int64())


def chunk_rows(width: int, queries: int, dims: Sequence[int], k: int, memory_bytes: int) -> int:
    """Return the number of rows of a chunk that keeps this process within its memory budget.

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
    if rows < _MIN_CHUNK_ROWS:
        least = ((held + _MIN_CHUNK_ROWS * (row_bytes + block_row_bytes)) >> 20) + 1
        raise ConfigError(
            f"memory_bytes = {memory_bytes} does not hold {queries} queries at dims {tuple(dims)} with k = {k}; "
            f"allowed: {least << 20} or more; or ask for fewer dims or a smaller k"
        )
    return int(min(rows, _MAX_CHUNK_ROWS))


def free_large_arrays_early(memory_bytes: int) -> None:
    """Make this process return the memory of large arrays to the system at once, if its budget is small.

    Otherwise glibc keeps about 30 MB in its heaps. The setting lasts as long as the process and costs page faults, so
    it is for workers with small budgets only.
    """
    if memory_bytes < _SMALL_BUDGET_BYTES and hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_MMAP_THRESHOLD, 256 << 10)


def query_block(width: int, dims: Sequence[int], k: int, memory_bytes: int) -> int:
    """Return the number of queries of a block: as many as a third of the budget holds, 4,096 at most.

    With more queries in a block, each row is read fewer times; beyond 4,096 this gains nothing.
    """
    third = (memory_bytes - _LIBRARY_BYTES - _SCAN_BYTES) // 3
    return max(64, min(_MAX_QUERIES, third // _query_bytes(width, dims, k)))


@cache
def _resident_bytes() -> int:
    """Return the bytes that the process held before its first search; later searches reuse what earlier ones freed."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _query_bytes(width: int, dims: Sequence[int], k: int) -> int:
    """Return the bytes per query: its vector, its prefixes, its column of the product, its lists and hits."""
    return 4 * width + 6 * sum(dims) + 4 * BLOCK_ROWS + k * (300 + 130 * len(dims))
