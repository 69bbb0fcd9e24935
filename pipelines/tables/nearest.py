"""Find the rows nearest to one query: through Lance where a column holds the dims, else by a scan of the full vectors.

Owns no encoding and no funnel. Shapes: B rows of a batch, M dims compared, D full width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from lance import LanceDataset

from pipelines.tables.rows import ROW_ID, has_everywhere, places_of, read_rows, row_ids, scan_vectors
from pipelines.vectors.arrays import Floats, Halves, to_numpy
from pipelines.vectors.matryoshka import cut, have_direction, prefix
from schemas.columns import VECTOR, prefix_column
from schemas.errors import RowsLeftOut
from schemas.printable import counted

# A rounded query moves a cosine by at most 2^-11, that of the k-th and that of the last row.
_ROUNDING = 2**-10
# Rows asked for beside twice those wanted: few queries need a second search then.
_SPARE = 32
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
        The wanted columns and `score`, the cosine in float32, best first; ties by id. Unless a prefix column is
        searched, no other row has a better score, or the score of the k-th and a smaller id. A row whose first M dims
        have no direction is never returned; where it is missed, a `RowsLeftOut` warns.
    """
    dim, more = len(query_M), k + (skip is not None)
    column = VECTOR if dim == width else prefix_column(dim)
    names = list(dict.fromkeys(["id", *wanted, ROW_ID]))
    if column == VECTOR:
        best = _read(dataset, _by_lance(dataset, query_M, more, where), names)
    elif has_everywhere(dataset, column):
        best = _by_prefix(dataset, column, query_M, more, where, names)
    else:
        best = _read(dataset, _by_scan(dataset, query_M, more, where), names)
    if best.num_rows < more:
        warn_of_rows_left_out(dataset, dim, where, found=best.num_rows)
    if skip is not None:
        best = best.filter(pa.array(row_ids(best) != skip)).slice(0, k)
    return best.select([*wanted, "score"])


def warn_of_rows_left_out(dataset: LanceDataset, dim: int, where: str | None, found: int) -> None:
    """Warn that a search could return only `found` rows, if others have no direction in the first `dim` dims."""
    if dataset.count_rows(where) == found:
        return
    lost = sum(int((~have_direction(prefix(x_BD, dim))).sum()) for _, x_BD in scan_vectors(dataset, [], where))
    if lost:
        warnings.warn(
            f"not compared: {counted(lost, 'row')} of {dataset.uri}, since the first {dim} dims of their vectors have "
            "no direction (all zeros, NaN or infinity), as another tool has written them; give them vectors, or erase "
            "them with `mlake delete`",
            RowsLeftOut,
            stacklevel=2,
        )


def _by_prefix(
    dataset: LanceDataset, column: str, query_M: Floats, k: int, where: str | None, names: Sequence[str]
) -> pa.Table:
    """Have Lance search a prefix, through its index if there is one."""
    nearest = {"column": column, "q": query_M, "k": k, "metric": "cosine"}
    nearest |= {"refine_factor": 1, "minimum_nprobes": _PROBES}
    read = list(dict.fromkeys([*names, column, "_distance"]))
    best = dataset.scanner(columns=read, nearest=nearest, filter=where, prefilter=True).to_table()
    return _ranked(best.select(names), _cosines(to_numpy(best[column]), query_M), k)


def _by_lance(dataset: LanceDataset, query_M: Floats, k: int, where: str | None) -> pa.Table:
    """Have Lance compare the full vectors, without an index; return `id`, `_rowid` and `score` of the k best rows.

    Lance rounds the query to half precision, so its k best may be others. More are asked for, and ranked by the query
    as it is, until the last of them is too far away to be among the k best.
    """
    asked, names = 2 * k + _SPARE, ["id", ROW_ID]
    while True:
        nearest = {"column": VECTOR, "q": query_M, "k": asked, "metric": "cosine", "use_index": False}
        columns = [*names, VECTOR, "_distance"]
        best = dataset.scanner(columns=columns, nearest=nearest, filter=where, prefilter=True).to_table()
        scores = _cosines(to_numpy(best[VECTOR]), query_M)
        if len(scores) < asked or 1 - best["_distance"][-1].as_py() < np.partition(scores, -k)[-k] - _ROUNDING:
            return _ranked(best.select(names), scores, k)
        asked *= 4


def _by_scan(dataset: LanceDataset, query_M: Floats, k: int, where: str | None) -> pa.Table:
    """Compare the prefix of every full vector; return `id`, `_rowid` and `score` of the k best rows."""
    best = pa.table(
        {"id": pa.array([], pa.string()), ROW_ID: pa.array([], pa.uint64()), "score": pa.array([], pa.float32())}
    )
    for batch, x_BD in scan_vectors(dataset, ["id", ROW_ID], where):
        compared_B = have_direction(prefix(x_BD, len(query_M)))
        rows = pa.Table.from_batches([batch.filter(pa.array(compared_B))]).select(["id", ROW_ID])
        scored = _ranked(rows, _cosines(x_BD[compared_B], query_M), k)
        both = pa.concat_tables([best, scored], promote_options="permissive")
        best = _ranked(both.drop_columns("score"), both["score"].to_numpy(), k)
    return best


def _cosines(x_BD: Halves, query_M: Floats) -> Floats:
    """Compare the first M dims of rows with a query. Equal rows get equal scores, unlike by a product of BLAS."""
    scores_B: Floats = np.einsum("bm,m->b", cut(x_BD.astype(np.float32), len(query_M)), query_M)
    return scores_B


def _ranked(rows: pa.Table, scores: Floats, k: int) -> pa.Table:
    """Return the k best rows with their scores, best first, ties by id."""
    scored = rows.append_column("score", pa.array(scores, pa.float32()))
    return scored.sort_by([("score", "descending"), ("id", "ascending")]).slice(0, k)


def _read(dataset: LanceDataset, best: pa.Table, names: Sequence[str]) -> pa.Table:
    """Read columns of ranked rows, in their order."""
    rows_K = row_ids(best)
    found = read_rows(dataset, rows_K, names)
    return found.take(places_of(found, rows_K)).append_column("score", best["score"])
