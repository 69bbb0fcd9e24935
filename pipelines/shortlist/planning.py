"""Plan the work for a shortlist table: which queries to search in which part of the searched table.

A query block is a range of queries. A part is a group of fragments of the searched table. A task searches one part for
queries of one block.

Owns the division into tasks, and the choice between making a table, resuming a killed run, and repairing an older
table. Does none of the work (`lists.py`). A plan follows from the versions of both tables and the config alone, so a
resumed run has the same tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset, LanceFragment

from pipelines.shortlist.pieces import Pieces
from pipelines.shortlist.scan import column_for, query_block
from pipelines.storage.addresses import absolute, sibling
from pipelines.tables.opening import open_dataset
from pipelines.tables.rows import ROW_ID
from pipelines.tables.table import VectorTable
from schemas.columns import VECTOR
from schemas.config import ListsConfig, ShortlistConfig, StorageConfig
from schemas.errors import ConfigError, TableError, TableNotFound
from schemas.shortlists import ROWS, ShortlistSpec, shortlist_spec

_MAX_PART_ROWS = 4 << 20
_MIN_PART_ROWS = 1 << 16
_MIN_TASKS = 8


@dataclass(frozen=True)
class SearchTask:
    """Search one part for some queries of one block: the unit of work, retry and resume.

    Attributes:
        block: Number of the query block.
        part: Number of the part; in a repair, the new rows are a part of their own.
        queries: Positions of the queries in their table.
        fragments: Ids of the part's fragments; None: all.
        changed_since: Search only rows that were added, or changed by another tool, after this version.
    """

    block: int
    part: int
    queries: Sequence[int]
    fragments: tuple[int, ...] | None = None
    changed_since: int | None = None

    @property
    def file(self) -> str:
        """Name of the file that holds the result."""
        return f"{self.block:06d}-{self.part:06d}-rows.lance"  # the first release wrote pieces that name ids alone


@dataclass(frozen=True)
class ListsPlan:
    """Hold all tasks of a shortlist table.

    Attributes:
        spec: What the table will hold.
        uri: Address of the table.
        config: The job's config; a resumed run takes the memory budget of the killed run.
        blocks: Positions of each block's queries in their table.
        tasks: All tasks, finished ones included.
        kept: Row ids of queries whose existing lists are merged with the new ones; empty unless a table is repaired.
    """

    spec: ShortlistSpec
    uri: str
    config: ShortlistConfig
    blocks: tuple[range, ...]
    tasks: tuple[SearchTask, ...]
    kept: pa.Array

    @property
    def pieces(self) -> Pieces:
        """The folder of finished pieces."""
        return Pieces(self.uri, self.config.storage)

    def todo(self) -> list[SearchTask]:
        """Return the tasks that are not finished."""
        finished = self.pieces.finished()
        return [task for task in self.tasks if task.file not in finished]


def plan_lists(config: ShortlistConfig) -> ListsPlan | None:
    """Plan a shortlist table, or return None if it is up to date.

    Resumes a killed run from its plan; else repairs the table if it exists; else makes a new one.

    Raises:
        ConfigError: The config asks for no lists.
        DimError: The space must not be cut to one of the dims.
        SpaceMismatch: The two tables are of different spaces.
        TableError: The address holds lists of other queries, dims, k or filter, or no lists at all.
    """
    uri, spec = _requested(config)
    pieces = Pieces(uri, config.storage)
    existing = open_lists(uri, config.storage)
    old = None if existing is None else shortlist_spec(existing.schema, uri)
    if old is not None:
        _check_same_request(uri, old, spec)
        spec = spec.model_copy(update={"column": old.column})
    killed = pieces.load_plan()
    if killed is not None and _is_resumable(killed[0], spec, old, config):
        spec, memory_bytes = killed
        assert config.lists is not None
        config = config.model_copy(update={"lists": config.lists.model_copy(update={"memory_bytes": memory_bytes})})
    else:
        pieces.clear()
    if spec == old:
        return None
    plan = (
        _plan_all(uri, spec, config) if existing is None or old is None else _plan_repair(uri, spec, config, existing)
    )
    if plan is None:
        return None
    pieces.save_plan(plan.spec, lists_of(plan.config).memory_bytes)
    return plan


def lists_uri(config: ShortlistConfig) -> str:
    """Return the address of a config's shortlist table."""
    named = lists_of(config).table
    return absolute(named) if named else sibling(absolute(config.table), "shortlist")


def lists_of(config: ShortlistConfig) -> ListsConfig:
    """Return the config's `lists` block.

    Raises:
        ConfigError: There is none.
    """
    if config.lists is None:
        raise ConfigError("the config asks for no lists; add a [lists] block")
    return config.lists


def open_lists(uri: str, storage: StorageConfig) -> LanceDataset | None:
    """Open a shortlist table; None if there is none."""
    try:
        return open_dataset(uri, storage)
    except TableNotFound:
        return None


def changed_since(version: int) -> str:
    """Return SQL for the rows that were added or changed after a version; compaction does not change them."""
    return f"_row_last_updated_at_version > {version}"


def _requested(config: ShortlistConfig) -> tuple[str, ShortlistSpec]:
    """Return the address of the requested lists and their spec, at the latest versions of both tables."""
    lists = lists_of(config)
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
    return lists_uri(config), spec


def _request(spec: ShortlistSpec) -> dict[str, object]:
    """Return the fields of a spec that the user chose, without versions and column."""
    return spec.model_dump(exclude={"queries_version", "vectors_version", "column"})


def _check_same_request(uri: str, old: ShortlistSpec, new: ShortlistSpec) -> None:
    ours, asked = _request(old), _request(new)
    if differing := [f"{key}: table {ours[key]!r}, asked {asked[key]!r}" for key in ours if ours[key] != asked[key]]:
        raise TableError(
            f"{uri} holds other lists ({', '.join(differing)}); ask for the same, or set lists.table to another"
        )


def _plan_all(uri: str, spec: ShortlistSpec, config: ShortlistConfig) -> ListsPlan:
    blocks = _blocks(spec, config)
    parts = _parts(spec, config, len(blocks))
    tasks = [SearchTask(b, p, block, part) for b, block in enumerate(blocks) for p, part in enumerate(parts)]
    return ListsPlan(spec, uri, config, blocks, tuple(tasks), pa.array([], pa.int64()))


def _plan_repair(uri: str, spec: ShortlistSpec, config: ShortlistConfig, existing: LanceDataset) -> ListsPlan | None:
    """Search all for queries that are new, have no list or lost a neighbour, and only changed rows for the others."""
    if not set(ROWS.names) <= set(existing.schema.names):
        return _plan_all(uri, spec, config)  # of the first release, which did not say which of two equal ids it means
    old = shortlist_spec(existing.schema, uri)
    vectors = _Changes(spec.vectors, old.vectors_version, spec.vectors_version, config.storage)
    queries = _Changes(spec.queries, old.queries_version, spec.queries_version, config.storage)
    asking = queries.dataset.to_table(columns=[ROW_ID])[ROW_ID].combine_chunks().cast(pa.int64())
    damaged = queries_that_lost_rows(existing, vectors.unchanged())
    listed = pc.unique(existing.to_table(columns=["query_row"])["query_row"])
    is_whole = pc.and_(pc.is_in(asking, value_set=queries.unchanged()), pc.is_in(asking, value_set=listed))
    in_full = pc.or_(pc.invert(is_whole), pc.is_in(asking, value_set=damaged)).to_numpy(zero_copy_only=False)
    gained = vectors.count() > 0
    if not gained and not in_full.any() and pc.all(pc.is_in(listed, value_set=asking)).as_py():
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
            tasks.append(SearchTask(number, len(parts), rest, vectors.fragments, old.vectors_version))
    return ListsPlan(spec, uri, config, blocks, tuple(tasks), asking.filter(pa.array(~in_full)))


class _Changes:
    """Tells which rows of a table were added, or whose vectors may have been changed, between two versions.

    Lance notes at which version a row was last changed, by filling a prefix column too. So the rows of fragments whose
    file of vectors is still the same are known to be unchanged.

    Attributes:
        dataset: The table at the newer version.
        fragments: Ids of the fragments that may hold changed rows.
    """

    def __init__(self, uri: str, old: int, new: int, storage: StorageConfig) -> None:
        self.dataset = VectorTable.open(uri, new, storage).dataset
        self._old = old
        try:
            before = _vector_files(VectorTable.open(uri, old, storage).dataset)
        except TableNotFound:  # that version has expired
            before = {}
        now = _vector_files(self.dataset)
        self.fragments = tuple(number for number, file in now.items() if before.get(number) != file)

    def count(self) -> int:
        """Return how many rows were added or changed."""
        filtered = (f for f in self.dataset.get_fragments() if f.fragment_id in self.fragments)
        return sum(fragment.count_rows(changed_since(self._old)) for fragment in filtered)

    def unchanged(self) -> pa.Array:
        """Return the ids of the rows that are as they were."""
        same: list[LanceFragment] = []
        other: list[LanceFragment] = []
        for fragment in self.dataset.get_fragments():
            (other if fragment.fragment_id in self.fragments else same).append(fragment)
        parts = [self._row_ids(same, None), self._row_ids(other, f"NOT ({changed_since(self._old)})")]
        return pa.concat_arrays(parts)

    def _row_ids(self, fragments: list[LanceFragment], where: str | None) -> pa.Array:
        if not fragments:
            return pa.array([], pa.int64())
        rows = self.dataset.scanner(columns=[ROW_ID], fragments=fragments, filter=where).to_table()
        return rows[ROW_ID].combine_chunks().cast(pa.int64())


def _vector_files(dataset: LanceDataset) -> dict[int, str]:
    """Return the data file that holds the vectors, by fragment."""
    field = dataset.lance_schema.field(VECTOR).id()  # type: ignore[union-attr]
    return {
        fragment.fragment_id: next(file.path for file in fragment.data_files() if field in file.fields)
        for fragment in dataset.get_fragments()
    }


def queries_that_lost_rows(existing: LanceDataset, unchanged: pa.Array) -> pa.Array:
    """Return the row ids of queries whose lists hold a row that was deleted, replaced or changed."""
    lost = [
        batch.column("query_row").filter(pc.invert(pc.is_in(batch.column("row"), value_set=unchanged)))
        for batch in existing.to_batches(columns=["query_row", "row"])
    ]
    return pc.unique(pa.chunked_array(lost, pa.int64()))


def _blocks(spec: ShortlistSpec, config: ShortlistConfig) -> tuple[range, ...]:
    queries = VectorTable.open(spec.queries, spec.queries_version, config.storage)
    count = queries.dataset.count_rows()
    size = query_block(queries.space.ladder.width, spec.dims, spec.k, lists_of(config).memory_bytes)
    return tuple(range(start, min(start + size, count)) for start in range(0, count, size))


def _parts(spec: ShortlistSpec, config: ShortlistConfig, blocks: int) -> list[tuple[int, ...]]:
    """Group fragments into parts: few and large, but enough for several workers."""
    fragments = VectorTable.open(spec.vectors, spec.vectors_version, config.storage).dataset.get_fragments()
    rows = {fragment.fragment_id: fragment.count_rows() for fragment in fragments}
    wanted = -(-_MIN_TASKS // max(1, blocks))
    size = max(_MIN_PART_ROWS, min(_MAX_PART_ROWS, sum(rows.values()) // wanted))
    parts: list[tuple[int, ...]] = []
    part: list[int] = []
    for fragment, count in rows.items():
        if part and sum(rows[f] for f in part) + count > size:
            parts.append(tuple(part))
            part = []
        part.append(fragment)
    return [*parts, tuple(part)] if part else parts


def _is_resumable(
    killed: ShortlistSpec, spec: ShortlistSpec, old: ShortlistSpec | None, config: ShortlistConfig
) -> bool:
    """Tell whether a killed run had the same request, was not committed, and can still read its versions."""
    return _request(killed) == _request(spec) and killed != old and _can_open(killed, config)


def _can_open(spec: ShortlistSpec, config: ShortlistConfig) -> bool:
    """Tell whether both tables still have the versions of a plan."""
    try:
        VectorTable.open(spec.queries, spec.queries_version, config.storage)
        VectorTable.open(spec.vectors, spec.vectors_version, config.storage)
    except TableNotFound:
        return False
    return True
