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

from pipelines.shortlist.erasure import erase_lists
from pipelines.storage.addresses import absolute, sibling
from pipelines.tables.compaction_commits import purge
from pipelines.tables.erasure import erase_rows, erased_before, rows_to_erase, rows_without
from pipelines.tables.filtered import meant_by
from pipelines.tables.generations import PublishRequest, describe, generations_of, hide, publish
from pipelines.tables.keepers import JOB, Keeper, is_unfinished, keepers
from pipelines.tables.night_log import NightLock
from pipelines.tables.opening import open_dataset
from pipelines.tables.publication_log import generation_uri, has_log, resolve_prod
from pipelines.tables.retention import remove_leftovers
from pipelines.tables.rows import TEXTS
from pipelines.tables.runs import RunRecord, living_runs, read_journal, shortlists_of
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.errors import TableError, TableNotFound
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
    if not has_log(base, storage):
        erasure = _erase_all(base, where, storage, planned)
        erasure.keepers = keepers(base, storage, list(erasure.rows))
        return erasure
    with NightLock(base, storage) as lock:
        erasure = _erase_all(base, where, storage, planned)
        if planned.shown:
            _replace_prod(base, where, storage, erasure, hides_prod=hides_prod)
        erasure.keepers = keepers(base, storage, list(erasure.rows))
        lock.update(state="erased", counts=NightCounts(withdrawn=sum(erasure.rows.values())))
    return erasure


def _erase_all(base: str, where: str, storage: StorageConfig, planned: Erasure) -> Erasure:
    remove_leftovers(base, storage)
    erasure, first = Erasure({}, {}, hints=planned.hints), VectorTable.open(base, storage=storage)
    for generation in generations_of(base, storage):
        _erase(VectorTable.open(generation_uri(base, generation), storage=storage), first, where, generation, erasure)
    return erasure


def _look_at_prod(base: str, where: str, storage: StorageConfig) -> tuple[int, str]:
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


def _replace_prod(base: str, where: str, storage: StorageConfig, erasure: Erasure, *, hides_prod: bool) -> None:
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


def _erase(table: VectorTable, first: VectorTable, where: str, generation: int, erasure: Erasure) -> None:
    is_idle = not living_runs(table)
    must_go_on = is_unfinished([entry for entry in read_journal(table) if entry.job == JOB])
    # The texts of a filter may be private: the journal keeps what was asked, without them.
    with RunRecord(table, JOB, {"where": TEXTS.sub("'…'", where)}) as record:
        removed = erase_rows(table, first, where, record.run)
        erasure.rows[generation] = record.summary["rows"] = rows = sum(removed.rows.values())
        erasure.shards = dict(Counter(erasure.shards) + Counter(removed.rows))
        erasure.before += removed.before
        erasure.places += removed.places
        if rows or removed.before or must_go_on:
            purge(table.uri, table.storage)
            without: dict[str, Any] = {table.uri: table.refresh().dataset.version}
            if removed.rejects or must_go_on:
                with contextlib.suppress(TableNotFound):  # the companion is lost
                    purge(rejects := sibling(table.uri, "rejects"), table.storage)
                    without[rejects] = open_dataset(rejects, table.storage).version
            for uri in shortlists_of(table):
                if (done := erase_lists(uri, table.refresh(), is_idle=is_idle)) is not None:
                    queries, without[uri] = done
                    erasure.lists += queries
            record.summary |= {"without": without, "queries": erasure.lists}
