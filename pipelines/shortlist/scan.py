"""Streaming a table through the exact search within a memory budget.

Owns which column is read, in what pieces, and how large the pieces may be. Owns no arithmetic (`exact.py`) and no
results (`lists.py`).

Shapes: Q queries, N rows of a chunk, D width of the column that is read.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance import LanceDataset

from pipelines.shortlist.agreement import Agreement, agreement
from pipelines.shortlist.exact import BLOCK_ROWS, Best, ExactSearch
from pipelines.shortlist.prefixes import plan_prefixes
from pipelines.tables import VectorTable, to_numpy
from schemas.columns import VECTOR, prefix_column
from schemas.config import ExactConfig
from schemas.errors import ConfigError

# What importing torch, Lance and Arrow takes before any work, and a little for what they allocate as they go.
_LIBRARY_BYTES = 400 << 20
_LEAST_CHUNK_ROWS = 1024
_MOST_CHUNK_ROWS = 1 << 16
_MOST_QUERIES = 4096
_READ_ROWS = 2048


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
    scanner = dataset.scanner(
        columns=["id", part.column],
        filter=part.where,
        fragments=[f for f in dataset.get_fragments() if part.fragments is None or f.fragment_id in part.fragments],
        batch_size=min(rows, _READ_ROWS),
        batch_readahead=4,
        fragment_readahead=1,
        io_buffer_size=16 << 20,
    )
    vectors_ND = np.empty((rows, dataset.schema.field(part.column).type.list_size), np.float16)
    ids: list[pa.Array] = []
    filled = 0
    for batch in scanner.to_batches():
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
    held = max(_resident_bytes(), _LIBRARY_BYTES // 2) + _query_bytes(width, dims, k) * queries
    held += BLOCK_ROWS * width * 14 + (64 << 20)
    row_bytes = 4 * width + 8 * max(dims) + 128
    rows = (memory_bytes - held) // row_bytes
    if rows < _LEAST_CHUNK_ROWS:
        least = (held + _LEAST_CHUNK_ROWS * row_bytes) >> 20
        raise ConfigError(
            f"memory_bytes = {memory_bytes} does not hold {queries} queries at dims {tuple(dims)} with k = {k}; "
            f"allowed: {(least + 1) << 20} or more; or ask for fewer dims or a smaller k"
        )
    return int(min(rows, _MOST_CHUNK_ROWS) // BLOCK_ROWS * BLOCK_ROWS or rows)


def query_block(width: int, dims: Sequence[int], k: int, memory_bytes: int) -> int:
    """Return how many queries to search at once: as many as a third of the budget holds, 4,096 at most.

    More queries at once make better use of every row that is read; more than that gain nothing.
    """
    third = (memory_bytes - _LIBRARY_BYTES) // 3
    return max(64, min(_MOST_QUERIES, third // _query_bytes(width, dims, k)))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _query_bytes(width: int, dims: Sequence[int], k: int) -> int:
    """Bytes that one more query costs: its vector, its prefixes, its column of the product, its lists and hits."""
    return 4 * width + 6 * sum(dims) + 4 * BLOCK_ROWS + k * (300 + 130 * len(dims))
