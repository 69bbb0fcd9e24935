"""What is to be done for a shortlist table: which queries are searched in which part of the database.

Owns the cutting of the work, and the decision between making a table, going on with a killed run, and repairing an
older table. Does none of the work (`lists.py`). Everything here follows from the two tables' versions and the config,
so a run that goes on with another's plan cuts it the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset

from pipelines.shortlist.pieces import Pieces
from pipelines.shortlist.scan import column_for, query_block
from pipelines.storage.addresses import absolute, sibling
from pipelines.tables.commits import open_dataset
from pipelines.tables.table import VectorTable
from schemas.config import ListsConfig, ShortlistConfig, StorageConfig
from schemas.errors import ConfigError, TableError, TableNotFound
from schemas.shortlists import ShortlistSpec, shortlist_spec

_MOST_PART_ROWS = 4 << 20
_LEAST_PART_ROWS = 1 << 16
_LEAST_TASKS = 8


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
    def pieces(self) -> Pieces:
        """The folder of finished pieces."""
        return Pieces(self.uri, self.config.storage)

    def todo(self) -> list[SearchTask]:
        """Return the tasks whose result is not there yet."""
        there = self.pieces.there()
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
    pieces = Pieces(uri, config.storage)
    present = open_lists(uri, config.storage)
    old = None if present is None else shortlist_spec(present.schema, uri)
    if old is not None:
        _check_same_question(uri, old, spec)
        spec = spec.model_copy(update={"column": old.column})
    begun = pieces.begun()
    if begun is not None and _question(begun[0]) == _question(spec) and begun[0] != old and _can_open(begun[0], config):
        spec, memory_bytes = begun
        assert config.lists is not None
        config = config.model_copy(update={"lists": config.lists.model_copy(update={"memory_bytes": memory_bytes})})
    else:
        pieces.clear()
    if spec == old:
        return None
    plan = (
        _plan_all(uri, spec, config)
        if present is None or old is None
        else _plan_repair(uri, spec, config, present, old)
    )
    if plan is None:
        return None
    pieces.begin(plan.spec, lists_of(plan.config).memory_bytes)
    return plan


def lists_uri(config: ShortlistConfig) -> str:
    """Return where the lists of a config go."""
    named = lists_of(config).table
    return absolute(named) if named else sibling(absolute(config.table), "shortlist")


def lists_of(config: ShortlistConfig) -> ListsConfig:
    """Return the lists block.

    Raises:
        ConfigError: There is none.
    """
    if config.lists is None:
        raise ConfigError("the config asks for no lists; add a [lists] block")
    return config.lists


def open_lists(uri: str, storage: StorageConfig) -> LanceDataset | None:
    """Open a shortlist table, or return None where there is none."""
    try:
        return open_dataset(uri, storage)
    except TableNotFound:
        return None


def added_since(version: int) -> str:
    """SQL for the rows that came after a version of their table; merging and compacting them changes nothing."""
    return f"_row_created_at_version > {version}"


def _ask(config: ShortlistConfig) -> tuple[str, ShortlistSpec]:
    """Return where the lists go and what they are to hold, both tables as they are now."""
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
    gained = vectors.count_rows(added_since(old.vectors_version)) > 0
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
    size = query_block(queries.space.ladder.width, spec.dims, spec.k, lists_of(config).memory_bytes)
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


def _can_open(spec: ShortlistSpec, config: ShortlistConfig) -> bool:
    """Whether the versions that a plan is pinned to are still there."""
    try:
        VectorTable.open(spec.queries, spec.queries_version, config.storage)
        VectorTable.open(spec.vectors, spec.vectors_version, config.storage)
    except TableNotFound:
        return False
    return True
