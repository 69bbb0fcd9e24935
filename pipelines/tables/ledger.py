"""Write rows to a table and commit them, each shard exactly once. The `shard` column is the ledger.

Owns the way of a lease from Arrow batches to a committed version, and the records in the companions
`<table>.shards.lance` (what each shard gave) and `<table>.rejects.lance` (what was rejected, and why). Killing a writer
anywhere loses nothing and doubles nothing, two jobs at once included: rejects and records are upserts that come first,
then one compare-and-swap commit adds the rows. Owns no reading of sources and no encoding.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata
from lance.fragment import write_fragments as write_lance_fragments

from pipelines.storage.addresses import sibling
from pipelines.storage.s3 import lance_options
from pipelines.tables.commits import commit_fragments, open_dataset, upsert
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.columns import REJECTS, SHARDS, VECTOR, prefix_column
from schemas.records import LeaseResult, Shard

MAX_ROWS_PER_FRAGMENT = 1 << 20


@dataclass(frozen=True)
class CommitResult:
    """What one commit did.

    Attributes:
        shards: Shards that are in the table now and were not before.
        rows: Their rows.
        rejects: Their rejected samples.
        redo: Shards to embed again: another run committed a shard of their lease first.
        version: Version of the table afterwards.
    """

    shards: int = 0
    rows: int = 0
    rejects: int = 0
    redo: tuple[Shard, ...] = ()
    version: int = 0


@dataclass(frozen=True)
class _Claims:
    """The part of a batch of results that is still to commit, seen from one version of the ledger."""

    fresh: list[LeaseResult] = field(default_factory=list)
    redo: list[Shard] = field(default_factory=list)
    stale: set[int] = field(default_factory=set)


def done_shards(table: VectorTable) -> set[int]:
    """Return the ids of all committed shards.

    A shard that gave no rows is known from its record alone. It counts as done unless the table still holds rows of an
    older content of the same file.
    """
    held = shards_of(table.dataset)
    records = table.companion("shards").to_table(columns=["shard", "uri", "rows"])
    occupied = records.filter(pc.is_in(records["shard"], pa.array(held, pa.int64())))["uri"].combine_chunks()
    is_empty = pc.and_not(pc.equal(records["rows"], 0), pc.is_in(records["uri"], occupied))
    return held | set(records.filter(is_empty)["shard"].to_pylist())


def shards_of(dataset: LanceDataset) -> set[int]:
    """Return the distinct values of the `shard` column."""
    shards: set[int] = set()
    for batch in dataset.to_batches(columns=["shard"]):
        shards.update(pc.unique(batch.column(0)).to_pylist())
    return shards


def write_fragments(table: VectorTable, batches: Iterable[pa.RecordBatch]) -> tuple[str, ...]:
    """Write rows that no reader sees before `commit_leases`; prefixes that the table has are cut on the way.

    Args:
        table: The table; nothing of it changes.
        batches: Columns `id, shard, <kept>, vector` in the table's order, streamed; memory is bounded by one batch.

    Returns:
        JSON of the new fragments, for `LeaseResult.fragments`.

    Raises:
        OSError: The store refuses: full, out of reach, or not allowed. An error of `batches` is raised as it is.
    """
    prefixes = [prefix_column(dim) for dim in table.prefix_dims]
    # Columns under other names are prefixes still being filled; `mlake shortlist` cuts them for these rows as well.
    known = {"id", "shard", *table.kept.names, VECTOR, *prefixes}
    schema = pa.schema([f for f in table.dataset.schema if f.name in known], table.dataset.schema.metadata)
    source = _Source(_with_prefixes(batches, table.prefix_dims, schema))
    try:
        written = write_lance_fragments(
            pa.RecordBatchReader.from_batches(schema, source),
            table.dataset,
            schema=schema,
            max_rows_per_file=MAX_ROWS_PER_FRAGMENT,
            storage_options=lance_options(table.storage),
        )
    except OSError as error:
        raise source.error or error from None
    return tuple(json.dumps(fragment.to_json()) for fragment in written)


def commit_leases(
    table: VectorTable, results: Sequence[LeaseResult], run: str, *, replace: bool = False
) -> CommitResult:
    """Make the rows of finished leases visible, each shard exactly once, whoever else commits at the same time.

    Rejects and the shards' records come first. Then one compare-and-swap commit adds the new rows and removes those of
    the shards' older contents. If another run has committed a shard of a lease, the whole lease is dropped. A call may
    be repeated after a failure, whether the commit was carried out or not: the ledger decides.

    Args:
        table: A handle of any version; its space is the one that the rows were made for.
        results: Finished leases.
        run: Id of the run, kept for audits.
        replace: Commit also shards that are in the table, in place of their rows.

    Raises:
        SpaceMismatch: The table was rotated since it was opened, so the rows are of a space that it no longer has.
        OSError: The store takes no commit.
    """
    while True:
        dataset = open_dataset(table.uri, table.storage)
        VectorTable(table.uri, dataset, table.storage).check_space(table.space)
        claims = _claim(table, dataset, results, replace=replace)
        counts = [count for result in claims.fresh for count in result.counts]
        if counts:
            fragments = [FragmentMetadata.from_json(text) for r in claims.fresh for text in r.fragments]
            try:
                _record(table, claims, run)
                if fragments or claims.stale:
                    dataset = commit_fragments(dataset, fragments, claims.stale, run, table.storage)
            except CommitConflictError:
                continue
        return CommitResult(
            shards=len(counts),
            rows=sum(count.rows for count in counts),
            rejects=sum(count.rejects for count in counts),
            redo=tuple(claims.redo),
            version=dataset.version,
        )


def _claim(table: VectorTable, dataset: LanceDataset, results: Sequence[LeaseResult], *, replace: bool) -> _Claims:
    done = shards_of(dataset)
    claims, claimed = _Claims(), set[int]()
    for result in results:
        ids = {count.shard.id for count in result.counts}
        taken = claimed & ids if replace else (claimed | done) & ids
        if taken:
            claims.redo.extend(c.shard for c in result.counts if c.shard.id not in taken | done)
            continue
        claimed |= ids
        claims.fresh.append(result)
    uris = [count.shard.uri for result in claims.fresh for count in result.counts]
    known = table.companion("shards").to_table(columns=["shard", "uri"])
    same_uri = known.filter(pc.is_in(known["uri"], pa.array(uris, pa.string())))["shard"]
    claims.stale.update(done & set(same_uri.to_pylist()))
    return claims


def _record(table: VectorTable, claims: _Claims, run: str) -> None:
    """Upsert what the shards gave and what was rejected; doing it twice changes nothing."""
    now = dt.datetime.now(dt.UTC)
    counts = [count for result in claims.fresh for count in result.counts]
    uris = {count.shard.id: count.shard.uri for count in counts}
    rejects = {
        (reject.shard, reject.position): {**vars(reject), "uri": uris[reject.shard], "run": run}
        for result in claims.fresh
        for reject in result.rejects
    }
    shards = [
        {
            "shard": c.shard.id,
            "uri": c.shard.uri,
            "size": c.shard.size,
            "etag": c.shard.etag,
            "rows": c.rows,
            "rejects": c.rejects,
            "run": run,
            "landed_at": now,
        }
        for c in counts
    ]
    outdated = f"shard IN ({', '.join(map(str, claims.stale | set(uris)))})"
    if rejects or table.companion("rejects").count_rows(outdated):
        rows = pa.Table.from_pylist([*rejects.values()], schema=REJECTS)
        upsert(sibling(table.uri, "rejects"), ["shard", "position"], rows, table.storage, remove=outdated)
    upsert(sibling(table.uri, "shards"), ["shard"], pa.Table.from_pylist(shards, schema=SHARDS), table.storage)


def _with_prefixes(
    batches: Iterable[pa.RecordBatch], dims: Sequence[int], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        columns = {name: batch.column(name) for name in batch.schema.names}
        if dims:
            full_BD = to_numpy(columns[VECTOR])
            columns |= {prefix_column(dim): to_arrow(cut(full_BD, dim)) for dim in dims}
        yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


class _Source:
    """Keep the error of a stream that Lance reads, since Lance passes on only its text."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except BaseException as error:
            self.error = error
            raise
