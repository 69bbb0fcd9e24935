"""Erase rows of a table everywhere: in every generation, with what is derived from them, and in what is published.

Rows leave the newest version of each generation in one commit. Prefix columns go with them, since they are columns of
the same rows. Then fragments and indexes are rewritten without them, and the lists that name them are removed. Where
`prod` shows such rows, the newest version takes its place, which must show the same rows otherwise: rows that no audit
has seen are not published, and an erasure that would leave `prod` as it is is refused. What still keeps their bytes is
said.

Owns the order of the steps. Owns no commit.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipelines.storage.addresses import absolute, sibling
from pipelines.tables.compaction_commits import purge
from pipelines.tables.erased import remember
from pipelines.tables.erasure import erase_rows, erased_before, rows_to_erase, rows_without
from pipelines.tables.filtered import meant_by
from pipelines.tables.generations import PublishRequest, describe, generations_of, hide, publish
from pipelines.tables.keepers import JOB, Keeper, keepers, unfinished_erasure
from pipelines.tables.night_log import NightLock
from pipelines.tables.opening import open_dataset
from pipelines.tables.publication_log import generation_uri, has_log, resolve_prod, table_of
from pipelines.tables.retention import remove_leftovers
from pipelines.tables.rows import TEXTS
from pipelines.tables.runs import RunRecord, living_runs, shortlists_of
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.errors import NightRunning, TableError, TableNotFound
from schemas.nights import NightCounts
from schemas.printable import counted


@dataclass
class Erasure:
    """What was erased, or would be.

    Attributes:
        rows: Rows by generation.
        shards: Rows by shard, over all generations.
        lists: Queries whose lists were removed from shortlist tables.
        shown: Rows of them that `prod` shows, or showed.
        unseen: Why the newest version cannot take the place of `prod`, as a sentence; empty where it can.
        publication: Number of the publication that shows the table without them, or hides it; None where none was made.
        is_hidden: Whether `prod` shows nothing now.
        keepers: What still keeps bytes of rows that were erased, now or before.
        before: Rows that no newest version has, and older ones do.
        places: Samples that are known by their place in their file alone.
        hints: Where no row was found, what was looked at, and what may have been meant.
    """

    rows: dict[int, int]
    shards: dict[int, int]
    lists: int = 0
    shown: int = 0
    unseen: str = ""
    publication: int | None = None
    is_hidden: bool = False
    keepers: tuple[Keeper, ...] = ()
    before: int = 0
    places: int = 0
    hints: tuple[str, ...] = ()


def plan_erasure(base: str, where: str, storage: StorageConfig) -> Erasure:
    """Count the rows that a filter finds in each generation; change nothing.

    Raises:
        TableNotFound: There is no table.
        TableError: The filter cannot be used on a generation, or fails on a row.
    """
    base = absolute(base)
    rows, shards = dict[int, int](), Counter[int]()
    tables = {
        each: VectorTable.open(generation_uri(base, each), storage=storage) for each in generations_of(base, storage)
    }
    for generation, table in tables.items():
        found = rows_to_erase(table, where)
        rows[generation] = found.num_rows
        shards.update(found["shard"].to_pylist())
    older = {} if shards else {each: erased_before(table, where).num_rows for each, table in tables.items()}
    kept = keepers(base, storage, list(rows), [each for each in older if older[each]])
    erasure = Erasure(rows, dict(shards), keepers=kept, before=sum(older.values()))
    erasure.shown, erasure.unseen = _look_at_prod(base, where, storage)
    if not shards and not erasure.before:
        erasure.hints = tuple(hint for table in tables.values() for hint in meant_by(table, where))
    return erasure


def erase(base: str, where: str, storage: StorageConfig, *, hides_prod: bool = False) -> Erasure:
    """Erase the rows that a filter finds. A call that was killed may be repeated.

    Args:
        base: Address of the table.
        where: The filter.
        storage: Where S3 is.
        hides_prod: Show readers of `prod` nothing until the next publication, where the newest version cannot take the
            place of `prod`.

    Raises:
        TableNotFound: There is no table.
        TableError: The filter cannot be used on a generation, or fails on a row, or `prod` would show erased rows;
            nothing is erased.
        PublicationConflict: `prod` was moved meanwhile; the rows are erased, and the new version is not published.
    """
    base = absolute(base)
    planned = plan_erasure(base, where, storage)  # refuses a filter before anything is changed
    if planned.unseen and not hides_prod:
        raise TableError(f"{planned.unseen}; nothing is erased")
    with _locked(base, storage) as lock:
        erasure = _erase_all(base, where, storage, planned, hides_prod=hides_prod)
        erasure.keepers = keepers(base, storage, list(erasure.rows))
        _end(lock, erasure)
    return erasure


def finish_erasure(uri: str, storage: StorageConfig, *, has_lock: bool = False) -> list[str]:
    """Complete an erasure that was killed: it had remembered what it erases, which leaves everything now.

    Args:
        uri: Address of a table, of any generation, or where one may be.
        storage: Where S3 is.
        has_lock: Whether the caller holds the lock of the table's nights.

    Returns:
        What was done, or why nothing was, in sentences; none where no erasure was killed.
    """
    try:
        VectorTable.open(uri, storage=storage)  # an address that no table can have is refused in its words
        base, _ = table_of(uri, storage)
        tables = [VectorTable.open(generation_uri(base, n), storage=storage) for n in generations_of(base, storage)]
    except TableNotFound:
        return []
    killed = {run: table for table in tables if (run := unfinished_erasure(table)) is not None}
    if not killed:
        return []
    run = next(iter(killed))
    later = "what it had found to erase stays out of this run, and a later one completes it"
    if any(run in living_runs(table) for run, table in killed.items()):
        return [f"the erasure of run {run} is at work, or was killed less than 15 minutes ago: {later}"]
    try:
        with contextlib.nullcontext() if has_lock else _locked(base, storage) as lock:
            erasure = _erase_all(base, None, storage, Erasure({}, {}))
            _end(lock, erasure)
    except NightRunning as error:
        return [f"the erasure of run {run} was killed: {later}; now {error}"]
    done = (
        f"the erasure of run {run}, which was killed, is completed: {counted(sum(erasure.rows.values()), 'row')} erased"
    )
    return [done, *([erasure.unseen] if erasure.unseen else [])]


def _locked(base: str, storage: StorageConfig) -> contextlib.AbstractContextManager[NightLock | None]:
    """Return the lock of the table's nights; none where no night ran, and nothing was published."""
    return NightLock(base, storage) if has_log(base, storage) else contextlib.nullcontext()


def _end(lock: NightLock | None, erasure: Erasure) -> None:
    if lock is not None:
        lock.update(state="erased", counts=NightCounts(withdrawn=sum(erasure.rows.values())))


def _erase_all(
    base: str, where: str | None, storage: StorageConfig, planned: Erasure, *, hides_prod: bool = False
) -> Erasure:
    remove_leftovers(base, storage)
    erasure, first = Erasure({}, {}, hints=planned.hints), VectorTable.open(base, storage=storage)
    tables = {
        each: VectorTable.open(generation_uri(base, each), storage=storage) for each in generations_of(base, storage)
    }
    # The texts of a filter may be private: the journal keeps what was asked, without them.
    asked = {} if where is None else {"where": TEXTS.sub("'…'", where)}
    with contextlib.ExitStack() as stack:
        works = [_Work(table, first, where, asked) for table in tables.values()]
        for work in works:
            stack.enter_context(work.record)
        # Whoever commits from now on knows what is erased of any generation, and whoever is killed has said so.
        for work in works:
            work.remember()
        for generation, work in zip(tables, works, strict=True):
            work.erase(generation, erasure)
        _replace_prod(base, where, storage, erasure, hides_prod=hides_prod)
    return erasure


def _look_at_prod(base: str, where: str | None, storage: StorageConfig) -> tuple[int, str]:
    """Count the rows of `prod` that a filter means, and say why the newest version could not take its place."""
    if (prod := resolve_prod(base, storage)) is None:
        return 0, ""
    try:
        shown = VectorTable.open(prod.uri, prod.state.version, storage)
    except TableNotFound:
        return 0, ""  # another tool has removed it
    left, meant = rows_without(shown, where)
    if not meant:
        return 0, ""
    newest = VectorTable.open(prod.uri, storage=storage)
    now, _ = rows_without(newest, where)
    if newest.space.fingerprint == shown.space.fingerprint and now == left:
        return meant, ""
    other = sum((now - left).values()) + sum((left - now).values())
    return meant, (
        f"`prod` shows {counted(meant, 'row')} that would be erased, and the newest version cannot take its place: it "
        f"differs by {counted(other, 'other row')} that nobody has published; publish first (the next night, or `mlake "
        f"publish {base}`) and erase then, or give --hide-prod: readers of `prod` are shown nothing until the next "
        "publication"
    )


def _replace_prod(base: str, where: str | None, storage: StorageConfig, erasure: Erasure, *, hides_prod: bool) -> None:
    """Publish the newest version in place of one that shows erased rows, or hide that."""
    erasure.shown, erasure.unseen = _look_at_prod(base, where, storage)
    if (prod := resolve_prod(base, storage)) is None or not erasure.shown:
        return
    note = f"{counted(erasure.shown, 'row')} erased"
    request = PublishRequest(note=note, expected_head=prod.publication.number)
    if not erasure.unseen:
        state = describe(VectorTable.open(prod.uri, storage=storage), prod.state.generation)
        erasure.publication = publish(base, state, storage, request).number
    elif hides_prod:
        erasure.publication, erasure.is_hidden = hide(base, storage, request).number, True


class _Work:
    """The erasure of one generation.

    Attributes:
        record: Its entry in the generation's journal.
    """

    def __init__(self, table: VectorTable, first: VectorTable, where: str | None, asked: dict[str, str]) -> None:
        """Look at who else is at work on it."""
        self._table, self._first, self._where = table, first, where
        self._is_idle = not living_runs(table)
        self._must_go_on = unfinished_erasure(table) is not None
        self.record = RunRecord(table, JOB, asked)

    def remember(self) -> None:
        """Remember the rows that the newest version has."""
        if self._where is not None and (found := rows_to_erase(self._table, self._where)).num_rows:
            remember(self._first, self._table, found, self.record.run)

    def erase(self, generation: int, erasure: Erasure) -> None:
        """Erase the rows, and what is derived from them."""
        table, record = self._table, self.record
        removed = erase_rows(
            table,
            self._first,
            self._where,
            record.run,
            fences=not self._is_idle,
            goes_on=self._must_go_on,
        )
        erasure.rows[generation] = record.summary["rows"] = rows = sum(removed.rows.values())
        erasure.shards = dict(Counter(erasure.shards) + Counter(removed.rows))
        erasure.before += removed.before
        erasure.places += removed.places
        if not (rows or removed.before or self._must_go_on):
            return
        purge(table.uri, table.storage)
        without: dict[str, Any] = {table.uri: table.refresh().dataset.version}
        if removed.rejects or self._must_go_on:
            with contextlib.suppress(TableNotFound):  # the companion is lost
                purge(rejects := sibling(table.uri, "rejects"), table.storage)
                without[rejects] = open_dataset(rejects, table.storage).version
        from pipelines.shortlist.erasure import erase_lists  # here, since it loads torch

        for uri in shortlists_of(table):
            if (done := erase_lists(uri, table.refresh(), is_idle=self._is_idle)) is not None:
                queries, without[uri] = done
                erasure.lists += queries
        record.summary |= {"without": without, "queries": erasure.lists}
