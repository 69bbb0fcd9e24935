"""Write rows to a table and commit them, each shard exactly once. The `shard` column is the ledger.

Owns the way of a lease from Arrow batches to a committed version, and what is known of the shards that the table holds.
Killing a writer anywhere loses nothing and doubles nothing, two jobs at once included: rejects and records
(`records.py`) are appended first, then one compare-and-swap commit adds the rows. A `Ledger` that is kept between
commits reads only what other runs have added, so a commit costs the same however many shards are there. Owns no
reading of sources and no encoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset, LanceFragment
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata

from pipelines.tables.commits import commit_fragments, data_paths
from pipelines.tables.compaction_commits import compact_smaller
from pipelines.tables.companions import ensure_companion
from pipelines.tables.erased import ErasedMemory, is_erased
from pipelines.tables.fragments import MAX_ROWS_PER_FRAGMENT, read_written
from pipelines.tables.opening import open_dataset
from pipelines.tables.records import (
    append_records,
    current_records,
    current_rejects,
    empty_shards,
    restore_records,
    unrecorded,
    withdraw_records,
)
from pipelines.tables.table import VectorTable
from schemas.records import LeaseResult, Shard

# Fragments with fewer rows than this are merged once there are so many of them. Each level makes the next one's
# fragments, so a row is rewritten three times at most, and a table has a few hundred small fragments at most, unless a
# run makes more of them than it can merge beside its commits.
_MERGED_BELOW = {1 << 12: 64, 1 << 16: 64, MAX_ROWS_PER_FRAGMENT: 256}
_RECORDS_MERGED_BELOW, _RECORDS_MERGED_EVERY = 1 << 16, 32
_MOST_LOOSE = 1 << 18  # ids of shards that may stand there more than once


@dataclass(frozen=True)
class CommitResult:
    """What one commit did.

    Attributes:
        shards: Shards that are in the table now and were not before.
        rows: Their rows.
        rejects: Their rejected samples.
        redo: Shards to embed again: another run committed a shard of their lease first, or `mlake delete` has erased a
            sample of it since it was read.
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
    committed: list[LeaseResult] = field(default_factory=list)
    redo: list[Shard] = field(default_factory=list)
    stale: set[int] = field(default_factory=set)

    @property
    def shards(self) -> set[int]:
        return {count.shard.id for result in [*self.fresh, *self.committed] for count in result.counts}


class Ledger:
    """Knows which shards a table holds, and the shards of each file, as of one version of the table.

    Where only its own commits have changed the table since, nothing is read to follow it. Where other runs have added
    rows, only their fragments are read. After any other change, everything is read again.

    Attributes:
        held: Shards with rows in the table.
    """

    def __init__(self, table: VectorTable) -> None:
        """Make the companions anew where they are lost; read nothing yet."""
        self.held: set[int] = set()
        self._table = table
        self._fragments: dict[int, tuple[int, str]] = {}
        self._commits = 0
        self._records: set[int] = set()
        self._of_file: dict[str, tuple[int, ...]] = {}
        self._memory = ErasedMemory(table)
        for suffix in ("shards", "rejects"):
            ensure_companion(table, suffix)

    def follow(self, dataset: LanceDataset) -> None:
        """Bring the ledger to a version of the table."""
        fragments = dataset.get_fragments()
        now = _fragments(dataset)
        if any(now.get(number) != known for number, known in self._fragments.items()):
            self._fragments, self.held = {}, set()
        if new := [fragment for fragment in fragments if fragment.fragment_id not in self._fragments]:
            self.held |= shards_of(dataset, new)
            self._read_records()
        self._fragments = now

    def has_erased(self, result: LeaseResult) -> bool:
        """Tell whether a lease has rows of samples that were erased after they were read."""
        erased, state = self._memory.read()
        if not erased or state == result.memory:
            return False
        files = {count.shard.id: count.shard.name for count in result.counts}
        batches = read_written(self._table, result.fragments, ["shard", erased.column])
        return any(is_erased(batch, erased, files).any() for batch in batches)

    def stale(self, results: Sequence[LeaseResult]) -> set[int]:
        """Return the shards that the table holds of the same files as these."""
        files = {count.shard.name for result in results for count in result.counts}
        return self.held & {shard for file in files for shard in self._of_file.get(file, ())}

    def add(self, claims: _Claims, dataset: LanceDataset) -> None:
        """Note an own commit, and the version that it made."""
        self.held -= claims.stale
        for result in claims.fresh:
            for count in result.counts:
                self._add_record(count.shard.id, count.shard.name)
                if count.rows:
                    self.held.add(count.shard.id)
        self._fragments = _fragments(dataset)

    def merge_small(self) -> None:
        """Merge small fragments of the table and of its records, where there are many. Call it between own commits."""
        if rows := _rows_to_merge_below([size for size, _ in self._fragments.values()], _MERGED_BELOW):
            dataset = open_dataset(self._table.uri, self._table.storage)
            is_followed = self._fragments == _fragments(dataset)
            if (merged := compact_smaller(dataset, rows)) is not None and is_followed:
                self._fragments = _fragments(merged)
        self._commits += 1
        if self._commits % _RECORDS_MERGED_EVERY == 0:
            for suffix in ("shards", "rejects"):
                dataset, _ = ensure_companion(self._table, suffix)
                compact_smaller(dataset, _RECORDS_MERGED_BELOW)

    def _read_records(self) -> None:
        dataset, _ = ensure_companion(self._table, "shards")
        fragments = {fragment.fragment_id: fragment for fragment in dataset.get_fragments()}
        if not self._records <= fragments.keys():
            self._records, self._of_file = set(), {}
        if new := [fragment for number, fragment in fragments.items() if number not in self._records]:
            rows = dataset.scanner(columns=["shard", "uri"], fragments=new).to_table()
            for shard, uri in zip(rows["shard"].to_pylist(), rows["uri"].to_pylist(), strict=True):
                self._add_record(shard, uri)
        self._records = set(fragments)

    def _add_record(self, shard: int, uri: str) -> None:
        known = self._of_file.get(uri, ())
        if shard not in known:
            self._of_file[uri] = (*known, shard)


def done_shards(table: VectorTable) -> set[int]:
    """Return the ids of all committed shards; see `committed_shards`."""
    return set(committed_shards(table).to_pylist())


def committed_shards(table: VectorTable) -> pa.Int64Array:
    """Return the id of each committed shard, once; the columns of so many take little memory.

    A shard that gave no rows is known from its record alone. It counts as committed unless the table holds rows of
    another content of the same file, or another content that gave none was recorded after it.
    """
    held = held_shards(table.dataset)
    empty = empty_shards(table, held)
    return pa.concat_arrays([held, empty]) if len(empty) else held


def rejects_of(table: VectorTable) -> pa.Table:
    """Return the rejects of the contents that the table holds, or that gave no rows; columns of `REJECTS`."""
    return current_rejects(table, shards_of(table.dataset))


def records_of(table: VectorTable) -> pa.Table:
    """Return one record for each committed shard that is recorded; columns of `SHARDS`."""
    return current_records(table, shards_of(table.dataset))


def shards_of(dataset: LanceDataset, fragments: Sequence[LanceFragment] | None = None) -> set[int]:
    """Return the distinct values of the `shard` column, of all fragments or of some."""
    return set(held_shards(dataset, fragments).to_pylist())


def held_shards(dataset: LanceDataset, fragments: Sequence[LanceFragment] | None = None) -> pa.Int64Array:
    """Return the distinct values of the `shard` column, of all fragments or of some, ascending."""
    found, some, loose = np.empty(0, np.int64), list[npt.NDArray[np.int64]](), 0
    for batch in dataset.scanner(columns=["shard"], fragments=fragments).to_batches():
        some.append(np.unique(batch.column(0)))
        loose += len(some[-1])
        if loose > max(_MOST_LOOSE, len(found)):
            found, some, loose = np.unique(np.concatenate([found, *some])), [], 0
    return pa.array(np.unique(np.concatenate([found, *some])))


def rows_by_shard(dataset: LanceDataset) -> dict[int, int]:
    """Count the rows of each value of the `shard` column."""
    rows = Counter[int]()
    for batch in dataset.to_batches(columns=["shard"]):
        for count in pc.value_counts(batch.column(0)).to_pylist():
            rows[count["values"]] += count["counts"]
    return rows


def count_rejects(rejects: pa.Table) -> dict[str, int]:
    """Count rejects, as `rejects_of` returns them, by reason, most first."""
    counts = rejects.group_by("reason").aggregate([("shard", "count")])
    ordered = counts.sort_by([("shard_count", "descending"), ("reason", "ascending")])
    return dict(zip(ordered["reason"].to_pylist(), ordered["shard_count"].to_pylist(), strict=True))


def restore_companions(table: VectorTable, listed: Iterable[Shard]) -> tuple[int, int]:
    """Make the companions anew where they are lost, or belong to another table, and record again what they lack.

    Args:
        table: The table.
        listed: Shards that a run has listed; only they tell which file a shard of the table is.

    Returns:
        Records that were made anew; and shards of the table whose file is not known any more.
    """
    for suffix in ("shards", "rejects"):
        ensure_companion(table, suffix)
    lacking = unrecorded(table, shards_of(table.dataset))
    if not lacking:
        return 0, 0
    held = rows_by_shard(table.dataset)
    rows = {shard: held[shard] for shard in lacking}
    restored = restore_records(table, rows, listed)
    return restored, len(rows) - restored


def commit_leases(
    table: VectorTable,
    results: Sequence[LeaseResult],
    run: str,
    *,
    replace: bool = False,
    ledger: Ledger | None = None,
) -> CommitResult:
    """Make the rows of finished leases visible, each shard exactly once, whoever else commits at the same time.

    Rejects and the shards' records come first. Then one compare-and-swap commit adds the new rows and removes those of
    the shards' older contents. If another run has committed a shard of a lease, or a sample of it was erased, the whole
    lease is dropped. A call may be repeated after a failure, whether the commit was carried out or not: the ledger
    decides.

    Args:
        table: A handle of any version; its space is the one that the rows were made for.
        results: Finished leases.
        run: Id of the run, kept for audits.
        replace: Commit also shards that are in the table, in place of their rows.
        ledger: Kept between the commits of a run; None reads everything.

    Raises:
        SpaceMismatch: The table was rotated since it was opened, so the rows are of a space that it no longer has.
        RunExpired: `mlake clean` took the run for dead, and its files are gone or given up.
        OSError: The store takes no commit.
    """
    ledger = Ledger(table) if ledger is None else ledger
    tried: set[int] = set()
    while True:
        dataset = open_dataset(table.uri, table.storage)
        VectorTable(table.uri, dataset, table.storage).check_space(table.space)
        ledger.follow(dataset)
        claims = _claim(ledger, dataset, results, tried, replace=replace)
        withdraw_records(table, tried - claims.shards, run)
        _record(table, claims, tried, run)
        tried |= claims.shards
        fragments = [fragment for result in claims.fresh for fragment in _fragments_of(result)]
        if fragments or claims.stale:
            try:
                dataset = commit_fragments(dataset, fragments, claims.stale, run, table.storage)
            except CommitConflictError:
                continue
            ledger.add(claims, dataset)
        counts = [count for result in [*claims.fresh, *claims.committed] for count in result.counts]
        return CommitResult(
            shards=len(counts),
            rows=sum(count.rows for count in counts),
            rejects=sum(count.rejects for count in counts),
            redo=tuple(claims.redo),
            version=dataset.version,
        )


def _record(table: VectorTable, claims: _Claims, recorded: set[int], run: str) -> None:
    """Append what the shards gave and what was rejected, unless it was recorded in an earlier try."""
    counts = [c for result in claims.fresh for c in result.counts if c.shard.id not in recorded]
    rejects = [r for result in claims.fresh for r in result.rejects if r.shard not in recorded]
    if counts:
        append_records(table, counts, rejects, run)


def _claim(
    ledger: Ledger, dataset: LanceDataset, results: Sequence[LeaseResult], tried: set[int], *, replace: bool
) -> _Claims:
    claims, claimed = _Claims(), set[int]()
    # After a try that failed it may still have been carried out; then its files are there.
    there = data_paths(fragment.metadata for fragment in dataset.get_fragments()) if tried else set()
    held = ledger.held
    for result in results:
        ids = {count.shard.id for count in result.counts}
        if ids <= tried and result.fragments and data_paths(_fragments_of(result)) <= there:
            claims.committed.append(result)
        elif taken := claimed & ids if replace else claimed & ids | held & ids:
            claims.redo.extend(c.shard for c in result.counts if c.shard.id not in taken | held & ids)
            continue
        elif ledger.has_erased(result):
            claims.redo.extend(count.shard for count in result.counts)
            continue
        else:
            claims.fresh.append(result)
        claimed |= ids
    claims.stale.update(ledger.stale(claims.fresh))
    return claims


def _fragments_of(result: LeaseResult) -> list[FragmentMetadata]:
    return [FragmentMetadata.from_json(text) for text in result.fragments]


def _fragments(dataset: LanceDataset) -> dict[int, tuple[int, str]]:
    """Return by fragment its number of rows, deleted ones included, and the file that says which are deleted."""
    return {f.fragment_id: (f.physical_rows, str(f.metadata.deletion_file)) for f in dataset.get_fragments()}


def _rows_to_merge_below(sizes: Sequence[int], levels: Mapping[int, int]) -> int:
    """Return the lowest level with too many fragments below it; 0 if none has."""
    return next((rows for rows, most in levels.items() if sum(size < rows for size in sizes) >= most), 0)
