"""Say what still keeps bytes of rows that were erased, until when, and what removes it.

Owns the answer. Owns no erasure (`erasure.py`), and removes nothing.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow.compute as pc

from pipelines.storage.addresses import split_s3
from pipelines.storage.s3 import kept_versions
from pipelines.tables.fencing import store_now
from pipelines.tables.generations import READER_GRACE, is_our_tag, needed_versions, published_versions
from pipelines.tables.maintenance import find_orphans, unneeded_files
from pipelines.tables.opening import open_dataset
from pipelines.tables.publication_log import generation_uri, read_log
from pipelines.tables.runs import ALIVE_FOR, living_runs, read_journal
from pipelines.tables.table import VectorTable
from pipelines.tables.tags import read_tags
from schemas.config import StorageConfig
from schemas.errors import TableNotFound
from schemas.journal import JournalEntry
from schemas.printable import counted

JOB = "delete"
"""The job of an erasure in the journal."""
_HOLDS_ROWS = re.compile(r"(data|_deletions|_indices|_transactions)/|_versions/\d")
# Lance removes files that no version needs when they are as old as this.
_LANCE_KEEPS = dt.timedelta(days=7)


@dataclass(frozen=True)
class Keeper:
    """What still keeps bytes of erased rows.

    Attributes:
        uri: Address of the table.
        kind: `versions`, `publication` (replaced, and readers may have it open), `prod`, `tag`, `run` (at work),
            `files` (that no version needs), `unfinished` (an erasure that was killed), or `store` (which keeps what is
            deleted).
        what: What it is, as a sentence.
        until: When the command works; None where that is now, or not known.
        command: What removes it.
    """

    uri: str
    kind: Literal["versions", "publication", "prod", "tag", "run", "files", "unfinished", "store"]
    what: str
    until: dt.datetime | None
    command: str


def keepers(
    base: str, storage: StorageConfig, generations: Sequence[int], older: Sequence[int] = ()
) -> tuple[Keeper, ...]:
    """Say what still keeps bytes of rows that were ever erased of some generations and of what lies beside them.

    Args:
        base: Address of the table.
        storage: Where S3 is.
        generations: Their numbers.
        older: Numbers of those whose older versions have rows that are to be erased, and the newest has not.
    """
    found = list[Keeper]()
    for generation in generations:
        table = VectorTable.open(generation_uri(base, generation), storage=storage)
        entries = [entry for entry in read_journal(table) if entry.job == JOB]
        found += _of_generation(table, base, entries, must_expire=generation in older)
        for run in living_runs(table):
            what = f"run {run} is at work: it may commit such rows still"
            found.append(Keeper(table.uri, "run", what, None, "the same command, when the run has ended"))
    return tuple(found)


def unfinished_erasure(table: VectorTable) -> str | None:
    """Return the run of a generation's last erasure, where it did not come to its end."""
    return _unfinished([entry for entry in read_journal(table) if entry.job == JOB])


def _unfinished(erasures: Sequence[JournalEntry]) -> str | None:
    return erasures[-1].run if erasures and erasures[-1].state != "complete" else None


def _of_generation(
    table: VectorTable, base: str, entries: Sequence[JournalEntry], *, must_expire: bool
) -> Iterator[Keeper]:
    if (run := _unfinished(entries)) is not None:
        what = f"the erasure of run {run} did not come to its end"
        yield Keeper(table.uri, "unfinished", what, None, "the same command, without --dry-run, or the next run")
    first_without: dict[str, int] = {}
    for entry in entries:
        first_without |= entry.summary.get("without", {})
    if must_expire:
        first_without[table.uri] = int(table.dataset.version)
    open_until = _open_until(base, table.storage) if first_without else {}
    for uri, version in first_without.items():
        try:
            dataset = open_dataset(uri, table.storage)
        except TableNotFound:
            continue
        older = {each["version"] for each in dataset.versions() if each["version"] < version}
        shown = {number: until for number, until in open_until.get(uri, {}).items() if number in older}
        yield from (_published(uri, base, number, until) for number, until in sorted(shown.items()))
        foreign = {name: v for name, v in read_tags(uri, table.storage).items() if v in older and not is_our_tag(name)}
        yield from (_tagged(uri, name, number) for name, number in sorted(foreign.items()))
        if others := older - shown.keys() - set(foreign.values()):
            yield Keeper(uri, "versions", f"{len(others)} older versions", None, _clean(base))
        yield from _files(table, base) if uri == table.uri else _files_beside(uri, base, table.storage)
        yield from _store(uri, table.storage)


def _files(table: VectorTable, base: str) -> Iterator[Keeper]:
    """Name files of a run that was killed: it has written rows that it could not commit; which ones, nothing says."""
    orphans = find_orphans(table)
    if files := len(orphans.paths) + orphans.young:
        until = None if not orphans.young else store_now(base, table.storage) + ALIVE_FOR
        what = f"{counted(files, 'file')} that no version needs may hold such rows"
        yield Keeper(table.uri, "files", what, until, _clean(base))


def _files_beside(uri: str, base: str, storage: StorageConfig) -> Iterator[Keeper]:
    """Name such files of a shortlist table or of rejects."""
    files = unneeded_files(uri, storage)
    if len(files):
        until = pc.max(files["last_modified"]).as_py() + _LANCE_KEEPS
        what = f"{counted(len(files), 'file')} that no version needs may hold what names such rows"
        yield Keeper(uri, "files", what, until, _clean(base))


def _store(uri: str, storage: StorageConfig) -> Iterator[Keeper]:
    """Name what a bucket keeps of deleted objects."""
    if not uri.startswith("s3://"):
        return
    bucket = split_s3(uri)[0]
    how = f"a lifecycle rule of bucket {bucket} for noncurrent versions, or `aws s3api delete-objects` with their ids"
    kept = kept_versions(uri, _HOLDS_ROWS, storage)
    if kept is None:
        what = f"whether bucket {bucket} keeps what is deleted is not known: it may not be asked"
        yield Keeper(uri, "store", what, None, f"the right s3:GetBucketVersioning; then, if it does, {how}")
    elif kept:
        what = f"bucket {bucket} keeps what is deleted: {counted(kept, 'earlier version')} of objects of this table"
        yield Keeper(uri, "store", what, None, how)


def _open_until(base: str, storage: StorageConfig) -> dict[str, dict[int, dt.datetime | None]]:
    """Return by address until when readers may have each published version open; None for those of `prod`."""
    log = read_log(base, storage)
    needed = needed_versions(log, store_now(base, storage))
    found: dict[str, dict[int, dt.datetime | None]] = {}
    for record, follower in itertools.zip_longest(log, log[1:]):
        state = record.state
        if state is not None and needed.get(state.generation, {}).get(state.version) == record.number:
            for uri, version in published_versions(base, state).items():
                found.setdefault(uri, {})[version] = None if follower is None else follower.at + READER_GRACE
    return found


def _published(uri: str, base: str, version: int, until: dt.datetime | None) -> Keeper:
    if until is None:
        return Keeper(uri, "prod", f"version {version} is `prod`", None, f"mlake publish {base}, or the next night")
    return Keeper(
        uri, "publication", f"version {version} was `prod`, and readers may have it open", until, _clean(base)
    )


def _tagged(uri: str, name: str, version: int) -> Keeper:
    remove = f"python -c 'import lance; lance.dataset({json.dumps(uri)}).tags.delete({json.dumps(name)})'"
    return Keeper(uri, "tag", f"the tag {name!r} keeps version {version}", None, remove)


def _clean(base: str) -> str:
    return f"mlake clean {base} --older-than 0"
