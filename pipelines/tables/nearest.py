"""Find the rows nearest to one query: through Lance where a column holds the dims, else by a scan of the full vectors.

Owns no encoding and no funnel. Shapes: B rows of a batch, M dims compared, D full width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from lance import LanceDataset

from pipelines.tables.rows import ROW_ID, has_everywhere, places_of, read_rows, row_ids, scan_vectors
from pipelines.vectors.arrays import Floats, to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.columns import VECTOR, prefix_column

_PROBES = 20  # partitions of an index that a search looks into; Lance's own default finds a twentieth fewer


def nearest_rows(
    dataset: LanceDataset,
    width: int,
    query_M: Floats,
    k: int,
    wanted: Sequence[str],
    *,
    where: str | None = None,
    skip: int | None = None,
) -> pa.Table:
    """Return the k rows whose first M dims are nearest to a query.

    Args:
        dataset: The version to search.
        width: D, the full width.
        query_M: Unit query.
        k: Rows wanted.
        wanted: Columns to return.
        where: SQL that rows must satisfy.
        skip: Id of a row that is not returned.

    Returns:
        The wanted columns and `score`, the cosine in float32, best first; ties by id.
    """
    dim, more = len(query_M), k + (skip is not None)
    column = VECTOR if dim == width else prefix_column(dim)
    search = _by_lance if has_everywhere(dataset, column) else _by_scan
    best = search(dataset, column, query_M, more, where, list(dict.fromkeys(["id", *wanted, ROW_ID])))
    if skip is not None:
        best = best.filter(pa.array(row_ids(best) != skip)).slice(0, k)
    return best.sort_by([("score", "descending"), ("id", "ascending")]).select([*wanted, "score"])


def _by_lance(
    dataset: LanceDataset, column: str, query_M: Floats, k: int, where: str | None, names: Sequence[str]
) -> pa.Table:
    """Have Lance search a column: a prefix through its index, the full vectors without one, since that is exact."""
    nearest: dict[str, Any] = {"column": column, "q": query_M, "k": k, "metric": "cosine"}
    if column == VECTOR:
        nearest["use_index"] = False
    else:
        nearest |= {"refine_factor": 1, "minimum_nprobes": _PROBES}
    read = list(dict.fromkeys([*names, column, "_distance"]))
    best = dataset.scanner(columns=read, nearest=nearest, filter=where, prefilter=True).to_table()
    x_KM = cut(to_numpy(best[column]).astype(np.float32), len(query_M))
    return best.select(names).append_column("score", pa.array(x_KM @ query_M, pa.float32()))


def _by_scan(
    dataset: LanceDataset, _: str, query_M: Floats, k: int, where: str | None, names: Sequence[str]
) -> pa.Table:
    """Compare the prefix of every full vector."""
    best = pa.table(
        {"id": pa.array([], pa.string()), ROW_ID: pa.array([], pa.uint64()), "score": pa.array([], pa.float32())}
    )
    for batch, x_BD in scan_vectors(dataset, ["id", ROW_ID], where):
        scores = pa.array(cut(x_BD.astype(np.float32), len(query_M)) @ query_M, pa.float32())
        scored = pa.Table.from_batches([batch]).append_column("score", scores)
        both = pa.concat_tables([best, scored.select(best.column_names)], promote_options="permissive")
        best = both.sort_by([("score", "descending"), ("id", "ascending")]).slice(0, k)
    rows_K = row_ids(best)
    found = read_rows(dataset, rows_K, names)
    return found.take(places_of(found, rows_K)).append_column("score", best["score"])
