"""Keep a table small: delete orphan files and spare codebooks, expire old versions, compact small fragments.

An orphan is a file that no version of the table needs: a run wrote it and could not commit it. Files that a living run
may still commit are never touched. A run counts as living for 15 minutes after its last entry in the journal, and a
file counts as needed for 15 minutes after it was written, both by the clock of the table's store. A writer that was
suspended for longer cannot commit what was deleted (`fencing.py`). The same holds for rotations and codebooks that no
version refers to (`fingerprinted.py`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.addresses import split_s3
from pipelines.storage.s3 import delete_keys
from pipelines.tables.commits import commit_nothing, update_config
from pipelines.tables.compaction_commits import compact, expire_versions
from pipelines.tables.companions import open_companion
from pipelines.tables.fencing import GIVEN_UP_KEY, given_up_before, store_now
from pipelines.tables.fingerprinted import StoredFile, find_unreferred
from pipelines.tables.generations import READER_GRACE, repair_tags
from pipelines.tables.ledger import shards_of
from pipelines.tables.opening import open_dataset
from pipelines.tables.publication_log import table_of
from pipelines.tables.records import fold_records
from pipelines.tables.runs import ALIVE_FOR, living_runs, shortlists_of
from pipelines.tables.table import VectorTable
from schemas.columns import COMPANIONS
from schemas.config import StorageConfig
from schemas.errors import TableError, TableNotFound


@dataclass(frozen=True)
class Orphans:
    """Files that no version needs.

    Attributes:
        paths: Relative to the table's address; safe to delete.
        nbytes: Their size in bytes.
        young: Number of further files that a living run may still commit.
        living: Ids of the runs that are at work.
        before: Uncommitted files that were written before this time are given up.
    """

    paths: tuple[str, ...]
    nbytes: int
    young: int
    living: tuple[str, ...]
    before: dt.datetime


def find_orphans(table: VectorTable, alive_for: dt.timedelta = ALIVE_FOR) -> Orphans:
    """List the files that no version of a table needs.

    Args:
        table: The table.
        alive_for: How long a run lives without an entry in the journal, and a file that nobody has committed.
    """
    now = store_now(table.uri, table.storage)
    living, before = tuple(living_runs(table, now, alive_for)), now - alive_for
    orphans = unneeded_files(table.uri, table.storage)
    is_old = pc.less(orphans["last_modified"], pa.scalar(before, pa.timestamp("us", tz="UTC")))
    old = orphans.filter(is_old) if not living else orphans.slice(0, 0)
    return Orphans(
        paths=tuple(old["path"].to_pylist()),
        nbytes=pc.sum(old["size_bytes"]).as_py() or 0,
        young=orphans.num_rows - old.num_rows,
        living=living,
        before=before,
    )


def unneeded_files(uri: str, storage: StorageConfig) -> pa.Table:
    """List the files of data, of deletions and of indexes that no version of a dataset needs.

    Args:
        uri: Address of a table or of one beside it.
        storage: Where S3 is.

    Returns:
        Columns `path`, relative to the address, `size_bytes` and `last_modified`.
    """
    # List all files before the needed ones: a file committed in between is then needed, and no orphan.
    files = open_dataset(uri, storage).all_files().read_all().group_by("path")
    there = files.aggregate([("size_bytes", "max"), ("last_modified", "max")])
    there = there.rename_columns([name.removesuffix("_max") for name in there.column_names])
    is_data = pc.match_substring_regex(there["path"], r"^(data|_deletions|_indices)/")
    return there.filter(pc.and_(is_data, pc.invert(pc.is_in(there["path"], _needed(uri, storage)))))


def delete_orphans(table: VectorTable, orphans: Orphans) -> int:
    """Give up the files that were found, then delete those that no run has committed since; return how many.

    First the table's config says up to when files are given up, so that later commits refuse them. Then a new version
    without any change makes every commit look again that has read the config before. A file that was committed in time
    is needed, and stays.

    Raises:
        TableError: The table is neither on a local disk nor on S3.
    """
    if not orphans.paths:
        return 0
    _give_up(table, orphans.before)
    paths = sorted(set(orphans.paths) - set(_needed(table.uri, table.storage).to_pylist()))
    _delete_files(table, [f"{table.uri.rstrip('/')}/{path}" for path in paths])
    return len(paths)


def find_spare(table: VectorTable, alive_for: dt.timedelta = ALIVE_FOR) -> list[StoredFile]:
    """List the files of rotations and codebooks that no version refers to; none while a run is at work.

    Args:
        table: The table.
        alive_for: As for `find_orphans`.
    """
    now = store_now(table.uri, table.storage)
    return [] if living_runs(table, now, alive_for) else find_unreferred(table, now - alive_for)


def delete_spare(table: VectorTable, alive_for: dt.timedelta = ALIVE_FOR) -> int:
    """Delete the files of rotations and codebooks that no version refers to, as orphans are; return the bytes freed."""
    found = find_spare(table, alive_for)
    if not found:
        return 0
    newest = max(file.written_at for file in found)
    _give_up(table, before := newest + dt.timedelta(microseconds=1))
    spare = find_unreferred(table, before)
    _delete_files(table, [file.address for file in spare])
    return sum(file.nbytes for file in spare)


def _give_up(table: VectorTable, before: dt.datetime) -> None:
    """Make every later commit refuse uncommitted files that are older than a time."""
    given_up = given_up_before(table.refresh().dataset)
    if given_up is None or given_up < before:
        update_config(table.uri, {GIVEN_UP_KEY: before.isoformat()}, table.storage)
    commit_nothing(table.uri, table.storage)


def _needed(uri: str, storage: StorageConfig) -> pa.Array:
    """Return the files that some version of a dataset needs."""
    return pc.unique(open_dataset(uri, storage).tracked_files().read_all()["path"].combine_chunks())


def _delete_files(table: VectorTable, addresses: Sequence[str]) -> None:
    if "://" not in table.uri:
        for path in map(Path, addresses):
            path.unlink(missing_ok=True)
            _remove_empty(path.parent, table)
        return
    if not table.uri.startswith("s3://"):
        raise TableError(
            f"{table.uri}: orphans can be deleted from local disks and S3 only; delete {len(addresses)} files by hand"
        )
    delete_keys(split_s3(table.uri)[0], [split_s3(address)[1] for address in addresses], table.storage)


def _remove_empty(folder: Path, table: VectorTable) -> None:
    """Remove a folder beside the table that nothing is left in, and the empty ones above it."""
    beside = Path(table.uri).parent
    with contextlib.suppress(OSError):  # something is in it
        while folder.parent != folder and beside in folder.parents and not folder.is_relative_to(table.uri):
            folder.rmdir()
            folder = folder.parent


def expire_table(
    table: VectorTable, older_than: dt.timedelta, reader_grace: dt.timedelta = READER_GRACE, keep: int = 0
) -> int:
    """Delete untagged versions of a table and its companions older than this; return the bytes freed.

    What is published, and what was replaced less than `reader_grace` ago, has tags, and stays.

    Args:
        table: The table.
        older_than: Younger versions stay.
        reader_grace: How long a replaced publication lives.
        keep: So many of the newest versions of each stay, whatever their age.
    """
    base, _ = table_of(table.uri, table.storage)
    repair_tags(base, table.storage, reader_grace)
    # Lance compares with this machine's clock.
    ahead = dt.datetime.now(dt.UTC) - store_now(table.uri, table.storage)
    older_than = max(dt.timedelta(0), older_than + ahead)
    return sum(expire_versions(uri, older_than, table.storage, keep) for uri in _addresses(table))


def removed_share(table: VectorTable) -> float:
    """Return the share of the rows in a table's files that were removed."""
    fragments = table.dataset.get_fragments()
    physical = sum(fragment.physical_rows for fragment in fragments)
    return sum(fragment.num_deletions for fragment in fragments) / max(1, physical)


def compact_table(table: VectorTable) -> int:
    """Rewrite small fragments of a table and its companions as large ones; return the table's number of fragments.

    Where no run is at work, records and rejects of replaced contents are deleted.
    """
    if not living_runs(table):
        fold_records(table, shards_of(table.refresh().dataset))
    for uri in _addresses(table):
        compact(uri, table.storage)
    return len(table.refresh().dataset.get_fragments())


def _addresses(table: VectorTable) -> list[str]:
    """Return the addresses of a table and of the tables beside it that are there."""
    found = [table.uri]
    for suffix in COMPANIONS:
        with contextlib.suppress(TableNotFound):
            found.append(open_companion(table, suffix).uri)
    for uri in shortlists_of(table):
        with contextlib.suppress(TableNotFound):
            open_dataset(uri, table.storage)
            found.append(uri)
    return found
