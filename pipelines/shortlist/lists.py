"""Make shortlist tables: the exact K nearest rows of every query at every dim.

Owns the search of one task, the commit that merges all pieces, and the reading of a finished table. Owns no plan
(`planning.py`), no arithmetic (`exact.py`), no reading of vectors (`scan.py`) and no actors.

A killed run is resumed with the tasks that are missing, at the versions of both tables that it started with. A table
whose sources have changed is repaired: a query that lost a neighbour is searched in the whole table, all others only
among the new rows.

Shapes: Q queries, L dims, K ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset

from pipelines.shortlist.exact import Best, ExactSearch, merge_best
from pipelines.shortlist.pieces import Pieces
from pipelines.shortlist.planning import ListsPlan, SearchTask, changed_since, lists_of, open_lists
from pipelines.shortlist.scan import (
    RowSelection,
    chunk_rows,
    free_large_arrays_early,
    read_chunks,
    row_names,
    split_names,
)
from pipelines.tables.commits import create_scalar_index
from pipelines.tables.companion_commits import overwrite
from pipelines.tables.opening import open_dataset
from pipelines.tables.rows import ROW_ID
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import have_direction, prefix
from schemas.columns import VECTOR
from schemas.config import ShortlistConfig
from schemas.errors import TableError
from schemas.shortlists import PIECE, ShortlistSpec, shortlist_schema, shortlist_spec


@dataclass(frozen=True)
class Searched:
    """What a search of one task did not compare: vectors without a direction at the widest dim.

    Attributes:
        task: The task.
        lost_rows: Such rows of its part.
        lost_queries: Such queries.
    """

    task: SearchTask
    lost_rows: int
    lost_queries: int


def search_task(spec: ShortlistSpec, uri: str, config: ShortlistConfig, task: SearchTask) -> Searched:
    """Search one part of a table for the queries of one task, and write the result as a piece.

    Args:
        spec: What the lists hold.
        uri: Address of the shortlist table.
        config: The plan's config: memory budget, arithmetic and storage.
        task: The queries and the part.

    Raises:
        ConfigError: The memory budget is too small for the queries.
    """
    free_large_arrays_early(lists_of(config).memory_bytes)
    queries = VectorTable.open(spec.queries, spec.queries_version, config.storage).dataset
    vectors = VectorTable.open(spec.vectors, spec.vectors_version, config.storage).dataset
    asking = queries.take(list(task.queries), columns=["id", ROW_ID, VECTOR])
    is_same = spec.queries == spec.vectors  # then a row's own query is known by its row, else by its id
    names = row_names(asking) if is_same else asking["id"].combine_chunks()
    own_ids = names if spec.exclude_self else None
    rows = chunk_rows(asking[VECTOR].type.list_size, len(asking), spec.dims, spec.k, lists_of(config).memory_bytes)
    queries_QD, widest = to_numpy(asking[VECTOR]), max(spec.dims)
    search = ExactSearch(queries_QD, spec.dims, spec.k, config.exact, own_ids)
    added = None if task.changed_since is None else changed_since(task.changed_since)
    selection = RowSelection(task.fragments, _all_of(spec.where, added), spec.column)
    for names, vectors_ND in read_chunks(vectors, selection, rows):
        search.add(names, vectors_ND, None if is_same or own_ids is None else split_names(names)[0])
    Pieces(uri, config.storage).write(task.file, task.queries, search.best)
    return Searched(task, search.lost[widest], int((~have_direction(prefix(queries_QD, widest))).sum()))


def commit_lists(plan: ListsPlan) -> LanceDataset:
    """Merge all pieces into the table in one commit, then delete the pieces.

    Raises:
        TableError: A piece is missing.
    """
    if missing := plan.todo():
        raise TableError(f"{len(missing)} of {len(plan.tasks)} pieces of {plan.uri} are missing; run the command again")
    schema, storage = shortlist_schema(plan.spec), plan.config.storage

    def merged() -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(schema, _merged(plan, schema))

    overwrite(plan.uri, merged, schema, storage)
    create_scalar_index(plan.uri, "query_id", storage)
    plan.pieces.clear()
    return open_dataset(plan.uri, storage)


def read_lists(lists: LanceDataset, max_queries: int = 5000) -> tuple[dict[int, pa.Array], int]:
    """Read the lists of all queries, or of an even sample of them, as `agreement` takes them.

    Args:
        lists: A shortlist table.
        max_queries: Largest number of queries to read.

    Returns:
        By dim, Q x K ids, flat, query by query, null where a query has fewer than K rows; and Q.
    """
    spec = shortlist_spec(lists.schema, lists.uri)
    key = "query_row" if "query_row" in lists.schema.names else "query_id"
    asked = lists.to_table(columns=[key], filter=f"dim = {max(spec.dims)} AND rank = 1")[key]
    queries = asked.combine_chunks()[:: -(-len(asked) // max_queries) or 1]
    places = {dim: np.full(len(queries) * spec.k, -1, np.int64) for dim in spec.dims}
    ids: list[pa.Array] = [pa.array([], pa.string())]
    read = 0
    for batch in lists.to_batches(columns=[key, "dim", "rank", "id"]):
        batch = batch.filter(pc.is_in(batch[key], value_set=queries))
        query = pc.index_in(batch[key], value_set=queries).to_numpy().astype(np.int64)
        for dim, rows in places.items():
            of_dim = batch["dim"].to_numpy() == dim
            rows[query[of_dim] * spec.k + batch["rank"].to_numpy()[of_dim] - 1] = read + np.flatnonzero(of_dim)
        ids.append(batch["id"])
        read += len(batch)
    all_ids = pa.concat_arrays(ids)
    return {dim: all_ids.take(pa.array(rows, mask=rows < 0)) for dim, rows in places.items()}, len(queries)


def _merged(plan: ListsPlan, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the merged lists, one query block after another."""
    queries = VectorTable.open(plan.spec.queries, plan.spec.queries_version, plan.config.storage).dataset
    existing = open_lists(plan.uri, plan.config.storage) if len(plan.kept) else None
    for number, block in enumerate(plan.blocks):
        names = row_names(queries.take(list(block), columns=["id", ROW_ID]))
        pieces = [plan.pieces.read(task.file) for task in plan.tasks if task.block == number]
        if existing is not None:
            pieces.append(_kept_lists(existing, names, plan.kept, block.start))
        for_dims = [_merge(pieces, dim, plan.spec.k, block) for dim in plan.spec.dims]
        yield _to_rows(for_dims, plan.spec.dims, names, schema)


def _kept_lists(existing: LanceDataset, names: pa.Array, kept: pa.Array, start: int) -> pa.Table:
    """Return the existing lists of those queries of a block that are kept, as a piece.

    Args:
        existing: The lists; they have the columns `ROWS`.
        names: Names of the block's queries.
        kept: Row ids of the queries whose lists are kept.
        start: Position of the block's first query.
    """
    ids, rows_of_queries = split_names(names)
    wanted = pc.unique(ids.filter(pc.is_in(rows_of_queries, value_set=kept)))
    quoted = ", ".join("'" + text.replace("'", "''") + "'" for text in wanted.to_pylist())
    rows = existing.to_table(filter=f"query_id IN ({quoted})" if quoted else "false")
    rows = rows.filter(pc.is_in(rows["query_row"], value_set=kept))
    places = pc.add(pc.cast(pc.index_in(rows["query_row"], value_set=rows_of_queries), pa.int64()), start)
    found = row_names(pa.table({"id": rows["id"], ROW_ID: rows["row"]}))
    return pa.table([places, rows["dim"], found, rows["score"]], schema=PIECE)


def _merge(pieces: Sequence[pa.Table], dim: int, k: int, block: range) -> Best:
    """Return the best rows at one dim over all pieces of a block."""
    best = Best(np.full((len(block), k), -np.inf, np.float32), pa.nulls(len(block) * k, pa.string()))
    for piece in pieces:
        rows = piece.filter(pc.equal(piece["dim"], dim)).combine_chunks()
        if len(rows):
            at, scores = rows["query"].to_numpy() - block.start, rows["score"].to_numpy()
            best = merge_best(best, at, np.arange(len(rows)), scores, rows["id"].combine_chunks())
    return best


def _to_rows(for_dims: Sequence[Best], dims: Sequence[int], names: pa.Array, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows of a block's lists, by query, dim and rank."""
    queries, k = for_dims[0].scores_QK.shape
    scores_QLK = np.stack([best.scores_QK for best in for_dims], axis=1)
    query, dim, rank = np.nonzero(np.isfinite(scores_QLK))
    found = pa.concat_arrays([best.ids for best in for_dims]).take(pa.array((dim * queries + query) * k + rank))
    (query_ids, query_rows), (ids, rows) = split_names(names.take(pa.array(query))), split_names(found)
    return pa.RecordBatch.from_arrays(
        [
            query_ids,
            pa.array(np.asarray(dims, np.int32)[dim]),
            pa.array((rank + 1).astype(np.int32)),
            ids,
            pa.array(scores_QLK[query, dim, rank]),
            query_rows,
            rows,
        ],
        schema=schema,
    )


def _all_of(*conditions: str | None) -> str | None:
    return " AND ".join(f"({condition})" for condition in conditions if condition) or None
