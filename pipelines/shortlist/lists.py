"""Shortlist tables: the exact K nearest of every query at every dim, as a Lance table that can be resumed and repaired.

Owns the plan of such a table, its pieces and its one commit. Owns no arithmetic (`exact.py`), no reading (`scan.py`) and no
spreading over machines.

The work is cut into (query block, part of the database). The result of each is a file named by both in
`<lists>.parts.lance`, which appears whole or not at all: the names are the ledger, doing a task twice changes nothing,
and a killed run goes on with the tasks whose files are missing, at the versions of both tables that it began with.
When all are there, they are merged block by block into the table, in one commit.

When the tables have moved on, the lists are not computed again: a query that lost a neighbour is searched in full,
all others only among the rows that are new.

Shapes: Q queries, K ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset
from lance.file import LanceFileSession

from pipelines.shortlist.exact import Best, ExactSearch, merge_best
from pipelines.shortlist.scan import Slice, chunk_rows, column_for, query_block, read_chunks
from pipelines.storage import absolute, lance_options, sibling
from pipelines.tables import VectorTable, to_numpy
from schemas.columns import VECTOR, ShortlistSpec, shortlist_schema, shortlist_spec
from schemas.config import ListsConfig, ShortlistConfig, StorageConfig
from schemas.errors import ConfigError, TableError, TableNotFound

_MOST_PART_ROWS = 4 << 20
_LEAST_PART_ROWS = 1 << 16
_LEAST_TASKS = 8
_PLAN = "plan.lance"

_PIECE = pa.schema(
    [
        pa.field("query", pa.int64(), nullable=False),
        pa.field("dim", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class SearchTask:
    """Some queries against a part of the database: the unit of work, retry and resume.

    Attributes:
        block: Number of the query block.
        part: Number of the part; the rows that are new to a repaired table count as a part of their own.
        queries: Places of the queries in their table's pinned version.
        fragments: Fragments of the searched table; None is all.
        added_since: Search only rows that came after this version.
    """

    block: int
    part: int
    queries: Sequence[int]
    fragments: tuple[int, ...] | None = None
    added_since: int | None = None

    @property
    def file(self) -> str:
        """Name of the file that holds the result."""
        return f"{self.block:06d}-{self.part:06d}.lance"


@dataclass(frozen=True)
class ListsPlan:
    """Everything that is to be done for a shortlist table.

    Attributes:
        spec: What the table will hold.
        uri: Where it goes.
        config: The settings it was planned by; what is pinned in a begun plan comes from there.
        blocks: Places of each block's queries in their table.
        tasks: All tasks, those that are done already included.
        kept: Ids of queries whose present lists go into the merge; none unless an older table is repaired.
    """

    spec: ShortlistSpec
    uri: str
    config: ShortlistConfig
    blocks: tuple[range, ...]
    tasks: tuple[SearchTask, ...]
    kept: pa.Array

    @property
    def pieces(self) -> LanceFileSession:
        """The folder of finished pieces."""
        return _pieces(self.uri, self.config.storage)

    def todo(self) -> list[SearchTask]:
        """Return the tasks whose result is not there yet."""
        there = set(self.pieces.list())
        return [task for task in self.tasks if task.file not in there]


def plan_lists(config: ShortlistConfig) -> ListsPlan | None:
    """Say what is to be done for a shortlist table, or None if it is up to date.

    A run that was killed is gone on with as it was planned; a table that exists is repaired; else one is made.

    Raises:
        ConfigError: The config asks for no lists.
        DimError: The space must not be cut to one of the dims.
        SpaceMismatch: The two tables are of different spaces.
        TableError: The address holds lists of other queries, dims, k or filter, or no lists at all.
    """
    uri, spec = _ask(config)
    pieces = _pieces(uri, config.storage)
    present = _open_lists(uri, config.storage)
    old = None if present is None else shortlist_spec(present.schema, uri)
    if old is not None:
        _check_same_question(uri, old, spec)
        spec = spec.model_copy(update={"column": old.column})
    begun = _read_begun(pieces)
    if begun is not None and _question(begun[0]) == _question(spec) and begun[0] != old and _can_open(begun[0], config):
        spec, memory_bytes = begun
        assert config.lists is not None
        config = config.model_copy(update={"lists": config.lists.model_copy(update={"memory_bytes": memory_bytes})})
    else:
        _clear(pieces)
    if spec == old:
        return None
    plan = (
        _plan_all(uri, spec, config)
        if present is None or old is None
        else _plan_repair(uri, spec, config, present, old)
    )
    if plan is None:
        return None
    _write_begun(pieces, plan)
    return plan


def build_lists(plan: ListsPlan) -> LanceDataset:
    """Do all that is left of a plan in this process.

    Returns:
        The shortlist table.

    Example:
        >>> if plan := plan_lists(config):  # doctest: +SKIP
        ...     lists = build_lists(plan)
    """
    searcher = Searcher(plan)
    for task in plan.todo():
        searcher.run(task)
    return commit_lists(plan)


class Searcher:
    """Does search tasks, one at a time, within the plan's memory budget."""

    def __init__(self, plan: ListsPlan) -> None:
        """Open both tables at the plan's versions."""
        spec, storage = plan.spec, plan.config.storage
        self._plan = plan
        self._queries = VectorTable.open(spec.queries, spec.queries_version, storage).dataset
        self._vectors = VectorTable.open(spec.vectors, spec.vectors_version, storage).dataset
        self._rows = self._tasks = 0

    def run(self, task: SearchTask) -> int:
        """Search a part for a block of queries and write the result; return the rows that were searched."""
        spec, config = self._plan.spec, self._plan.config
        asking = self._queries.take(list(task.queries), columns=["id", VECTOR])
        own_ids = asking["id"].combine_chunks() if spec.exclude_self else None
        memory_bytes = _lists(config).memory_bytes
        rows = chunk_rows(asking[VECTOR].type.list_size, len(asking), spec.dims, spec.k, memory_bytes)
        search = ExactSearch(to_numpy(asking[VECTOR]), spec.dims, spec.k, config.exact, own_ids)
        part = Slice(task.fragments, _both(spec.where, _added(task.added_since)), spec.column)
        searched = 0
        for ids, vectors_ND in read_chunks(self._vectors, part, rows):
            search.add(ids, vectors_ND)
            searched += len(ids)
            self._rows += len(ids)
        places = np.asarray(task.queries, np.int64)
        _write(self._plan.pieces, task.file, [_piece(places, dim, best) for dim, best in search.best.items()], _PIECE)
        self._tasks += 1
        return searched

    def progress(self) -> dict[str, int]:
        """Return rows searched and tasks done so far."""
        return {"rows": self._rows, "tasks": self._tasks}


def commit_lists(plan: ListsPlan) -> LanceDataset:
    """Merge all pieces into the table, in one commit, and remove them.

    Raises:
        TableError: A piece is missing.
    """
    if missing := plan.todo():
        raise TableError(
            f"{len(missing)} of {len(plan.tasks)} pieces of {plan.uri} are missing; run the same command again"
        )
    schema, options = shortlist_schema(plan.spec), lance_options(plan.config.storage)
    merged = pa.RecordBatchReader.from_batches(schema, _merged(plan, schema))
    lists = lance.write_dataset(merged, plan.uri, schema=schema, mode="overwrite", storage_options=options)
    lists.create_scalar_index("query_id", "BTREE", replace=True)
    _clear(plan.pieces)
    return lance.dataset(plan.uri, storage_options=options)


def read_lists(lists: LanceDataset) -> tuple[dict[int, pa.Array], int]:
    """Read a shortlist table the way `agreement` wants it.

    Returns:
        By dim, Q x K ids row by row, null where a query has fewer than K rows; and Q.
    """
    spec = shortlist_spec(lists.schema, lists.uri)
    queries = pc.unique(lists.to_table(columns=["query_id"], filter=f"dim = {max(spec.dims)}")["query_id"])
    found = {}
    for dim in spec.dims:
        rows = lists.to_table(columns=["query_id", "rank", "id"], filter=f"dim = {dim}").combine_chunks()
        at = pc.index_in(rows["query_id"], value_set=queries).to_numpy().astype(np.int64) * spec.k
        places = np.full(len(queries) * spec.k, -1, np.int64)
        places[at + rows["rank"].to_numpy() - 1] = np.arange(len(rows))
        found[dim] = rows["id"].combine_chunks().take(pa.array(places, mask=places < 0))
    return found, len(queries)


def _lists(config: ShortlistConfig) -> ListsConfig:
    if config.lists is None:
        raise ConfigError("the config asks for no lists; add a [lists] block")
    return config.lists


def _ask(config: ShortlistConfig) -> tuple[str, ShortlistSpec]:
    """Return where the lists go and what they are to hold, both tables as they are now."""
    lists = _lists(config)
    vectors = VectorTable.open(config.table, storage=config.storage)
    queries = VectorTable.open(lists.queries or config.table, storage=config.storage)
    vectors.check_space(queries.space)
    dims = lists.dims or vectors.space.ladder.dims
    for dim in dims:
        vectors.space.ladder.check(dim, vectors.uri)
    spec = ShortlistSpec(
        queries=queries.uri,
        queries_version=queries.dataset.version,
        vectors=vectors.uri,
        vectors_version=vectors.dataset.version,
        space=vectors.space.fingerprint,
        dims=tuple(sorted(set(dims))),
        k=lists.k,
        where=lists.where,
        exclude_self=lists.exclude_self,
        column=column_for(vectors, dims),
    )
    return absolute(lists.table) if lists.table else sibling(vectors.uri, "shortlist"), spec


def _question(spec: ShortlistSpec) -> dict[str, object]:
    """What a spec asks, whatever the versions."""
    return spec.model_dump(exclude={"queries_version", "vectors_version", "column"})


def _check_same_question(uri: str, old: ShortlistSpec, new: ShortlistSpec) -> None:
    ours, asked = _question(old), _question(new)
    if differing := [f"{key}: table {ours[key]!r}, asked {asked[key]!r}" for key in ours if ours[key] != asked[key]]:
        raise TableError(
            f"{uri} holds other lists ({', '.join(differing)}); ask for the same, or set lists.table to another"
        )


def _plan_all(uri: str, spec: ShortlistSpec, config: ShortlistConfig) -> ListsPlan:
    blocks = _blocks(spec, config)
    parts = _parts(spec, config, len(blocks))
    tasks = [SearchTask(b, p, block, part) for b, block in enumerate(blocks) for p, part in enumerate(parts)]
    return ListsPlan(spec, uri, config, blocks, tuple(tasks), pa.array([], pa.string()))


def _plan_repair(
    uri: str, spec: ShortlistSpec, config: ShortlistConfig, present: LanceDataset, old: ShortlistSpec
) -> ListsPlan | None:
    """Search in full for queries that are new or lost a neighbour, and among the new rows for all others."""
    vectors = VectorTable.open(spec.vectors, spec.vectors_version, config.storage).dataset
    queries = VectorTable.open(spec.queries, spec.queries_version, config.storage).dataset
    asking = queries.to_table(columns=["id", "_row_created_at_version"])
    damaged = _queries_that_lost_rows(present, vectors, old.vectors_version)
    is_new = pc.greater(asking["_row_created_at_version"], old.queries_version)
    in_full = pc.or_(is_new, pc.is_in(asking["id"], value_set=damaged)).to_numpy()
    gained = vectors.count_rows(_added(old.vectors_version)) > 0
    listed = pc.unique(present.to_table(columns=["query_id"])["query_id"])
    if not gained and not in_full.any() and pc.all(pc.is_in(listed, value_set=asking["id"].combine_chunks())).as_py():
        return None
    blocks = _blocks(spec, config)
    parts = _parts(spec, config, len(blocks))
    tasks = []
    for number, block in enumerate(blocks):
        places = np.arange(block.start, block.stop)
        full = tuple(places[in_full[block.start : block.stop]].tolist())
        rest = tuple(places[~in_full[block.start : block.stop]].tolist())
        tasks += [SearchTask(number, p, full, part) for p, part in enumerate(parts) if full]
        if rest and gained:
            tasks.append(SearchTask(number, len(parts), rest, added_since=old.vectors_version))
    kept = asking["id"].combine_chunks().filter(pa.array(~in_full))
    return ListsPlan(spec, uri, config, blocks, tuple(tasks), kept)


def _queries_that_lost_rows(present: LanceDataset, vectors: LanceDataset, version: int) -> pa.Array:
    """Return the ids of queries in whose lists a row stands that is gone, or was replaced, since a version."""
    listed = pc.unique(present.to_table(columns=["id"])["id"])
    is_there = np.zeros(len(listed), bool)
    still = vectors.scanner(columns=["id"], filter=f"_row_created_at_version <= {version}", batch_size=1 << 20)
    for batch in still.to_batches():
        is_there |= pc.is_in(listed, value_set=batch.column("id")).to_numpy(zero_copy_only=False)
    gone = listed.filter(pa.array(~is_there))
    lost = [
        batch.column("query_id").filter(pc.is_in(batch.column("id"), value_set=gone))
        for batch in present.to_batches(columns=["query_id", "id"])
    ]
    return pc.unique(pa.chunked_array(lost, pa.string()))


def _blocks(spec: ShortlistSpec, config: ShortlistConfig) -> tuple[range, ...]:
    queries = VectorTable.open(spec.queries, spec.queries_version, config.storage)
    count = queries.dataset.count_rows()
    size = query_block(queries.space.ladder.width, spec.dims, spec.k, _lists(config).memory_bytes)
    return tuple(range(start, min(start + size, count)) for start in range(0, count, size))


def _parts(spec: ShortlistSpec, config: ShortlistConfig, blocks: int) -> list[tuple[int, ...]]:
    """Group fragments into parts: few and large, but enough for several workers."""
    fragments = VectorTable.open(spec.vectors, spec.vectors_version, config.storage).dataset.get_fragments()
    rows = {fragment.fragment_id: fragment.count_rows() for fragment in fragments}
    wanted = -(-_LEAST_TASKS // max(1, blocks))
    size = max(_LEAST_PART_ROWS, min(_MOST_PART_ROWS, sum(rows.values()) // wanted))
    parts: list[tuple[int, ...]] = []
    part: list[int] = []
    for fragment, count in rows.items():
        if part and sum(rows[f] for f in part) + count > size:
            parts.append(tuple(part))
            part = []
        part.append(fragment)
    return [*parts, tuple(part)] if part else parts


def _merged(plan: ListsPlan, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the lists of one query block after another."""
    queries = VectorTable.open(plan.spec.queries, plan.spec.queries_version, plan.config.storage).dataset
    present = _open_lists(plan.uri, plan.config.storage) if len(plan.kept) else None
    for number, block in enumerate(plan.blocks):
        ids = queries.take(list(block), columns=["id"])["id"].combine_chunks()
        pieces = [_read(plan.pieces, task.file) for task in plan.tasks if task.block == number]
        if present is not None:
            pieces.append(_present_lists(present, ids, plan.kept, block.start))
        for_dims = [_merge(pieces, dim, plan.spec.k, block) for dim in plan.spec.dims]
        yield _in_order(for_dims, plan.spec.dims, ids, schema)


def _present_lists(present: LanceDataset, ids: pa.Array, kept: pa.Array, start: int) -> pa.Table:
    """Return what the table holds now for those of a block's queries whose lists are kept, as a piece."""
    wanted = ids.filter(pc.is_in(ids, value_set=kept))
    quoted = ", ".join("'" + text.replace("'", "''") + "'" for text in wanted.to_pylist())
    rows = present.to_table(filter=f"query_id IN ({quoted})" if quoted else "false")
    places = pc.add(pc.cast(pc.index_in(rows["query_id"], value_set=ids), pa.int64()), start)
    return pa.table([places, rows["dim"], rows["id"], rows["score"]], schema=_PIECE)


def _merge(pieces: Sequence[pa.Table], dim: int, k: int, block: range) -> Best:
    best = Best(np.full((len(block), k), -np.inf, np.float32), pa.nulls(len(block) * k, pa.string()))
    for piece in pieces:
        rows = piece.filter(pc.equal(piece["dim"], dim)).combine_chunks()
        if len(rows):
            at, scores = rows["query"].to_numpy() - block.start, rows["score"].to_numpy()
            best = merge_best(best, at, np.arange(len(rows)), scores, rows["id"].combine_chunks())
    return best


def _in_order(for_dims: Sequence[Best], dims: Sequence[int], ids: pa.Array, schema: pa.Schema) -> pa.RecordBatch:
    """Lay the lists of a block out by query, dim and rank."""
    queries, k = for_dims[0].scores_QK.shape
    scores_QLK = np.stack([best.scores_QK for best in for_dims], axis=1)
    query, dim, rank = np.nonzero(np.isfinite(scores_QLK))
    all_ids = pa.concat_arrays([best.ids for best in for_dims])
    return pa.RecordBatch.from_arrays(
        [
            ids.take(pa.array(query)),
            pa.array(np.asarray(dims, np.int32)[dim]),
            pa.array((rank + 1).astype(np.int32)),
            all_ids.take(pa.array((dim * queries + query) * k + rank)),
            pa.array(scores_QLK[query, dim, rank]),
        ],
        schema=schema,
    )


def _piece(places: npt.NDArray[np.int64], dim: int, best: Best) -> pa.RecordBatch:
    query, rank = np.nonzero(np.isfinite(best.scores_QK))
    k = best.scores_QK.shape[1]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(places[query]),
            pa.array(np.full(len(query), dim, np.int32)),
            best.ids.cast(pa.string()).take(pa.array(query * k + rank)),
            pa.array(best.scores_QK[query, rank]),
        ],
        schema=_PIECE,
    )


def _added(version: int | None) -> str | None:
    return None if version is None else f"_row_created_at_version > {version}"


def _both(*conditions: str | None) -> str | None:
    return " AND ".join(f"({condition})" for condition in conditions if condition) or None


def _open_lists(uri: str, storage: StorageConfig) -> LanceDataset | None:
    try:
        return lance.dataset(uri, storage_options=lance_options(storage))
    except (ValueError, OSError) as error:
        if "not found" in str(error).lower():
            return None
        raise


def _can_open(spec: ShortlistSpec, config: ShortlistConfig) -> bool:
    """Whether the versions that a plan is pinned to are still there."""
    try:
        VectorTable.open(spec.queries, spec.queries_version, config.storage)
        VectorTable.open(spec.vectors, spec.vectors_version, config.storage)
    except TableNotFound:
        return False
    return True


def _pieces(uri: str, storage: StorageConfig) -> LanceFileSession:
    return LanceFileSession(sibling(uri, "parts"), storage_options=lance_options(storage))


def _write(pieces: LanceFileSession, name: str, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
    with pieces.open_writer(name, schema=schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _read(pieces: LanceFileSession, name: str) -> pa.Table:
    return pieces.open_reader(name).read_all(batch_size=1 << 16).to_table()


def _write_begun(pieces: LanceFileSession, plan: ListsPlan) -> None:
    row = {"spec": plan.spec.model_dump_json(), "memory_bytes": _lists(plan.config).memory_bytes}
    batch = pa.RecordBatch.from_pylist([row])
    _write(pieces, _PLAN, [batch], batch.schema)


def _read_begun(pieces: LanceFileSession) -> tuple[ShortlistSpec, int] | None:
    if not pieces.contains(_PLAN):
        return None
    (row,) = _read(pieces, _PLAN).to_pylist()
    return ShortlistSpec.model_validate_json(row["spec"]), row["memory_bytes"]


def _clear(pieces: LanceFileSession) -> None:
    """Remove all pieces, the plan last: without it they mean nothing."""
    for name in sorted(pieces.list(), key=lambda name: name == _PLAN):
        pieces.delete_file(name)
