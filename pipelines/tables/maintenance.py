"""Keeping a table small: orphan files, old versions, small fragments.

An orphan is a file that no version of the table needs: what a run wrote and could not land. Files that a living run may
still land are never touched: a run counts as living for 15 minutes after it was last seen in the journal, and so does
every file after it was written.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.addresses import split_s3
from pipelines.storage.s3 import s3_client
from pipelines.tables.runs import ALIVE_FOR, living_runs
from pipelines.tables.table import VectorTable
from schemas.errors import TableError

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

COMPANIONS = ("shards", "rejects", "runs")
_DELETED_AT_ONCE = 1000


@dataclass(frozen=True)
class Orphans:
    """Files that no version needs.

    Attributes:
        paths: Below the table's address; safe to delete.
        nbytes: Their size.
        young: How many more there are that a living run may still land.
        living: Runs that are at work.
    """

    paths: tuple[str, ...]
    nbytes: int
    young: int
    living: tuple[str, ...]


def find_orphans(table: VectorTable) -> Orphans:
    """List the files that no version of a table needs."""
    living = tuple(living_runs(table))
    before = dt.datetime.now(dt.UTC) - ALIVE_FOR
    # What is there must be listed before what is needed: a file that lands in between is then needed, not an orphan.
    there = (
        table.dataset.all_files()
        .read_all()
        .group_by("path")
        .aggregate([("size_bytes", "max"), ("last_modified", "max")])
    )
    needed = pc.unique(table.refresh().dataset.tracked_files().read_all()["path"].combine_chunks())
    is_data = pc.match_substring_regex(there["path"], r"^(data|_deletions|_indices)/")
    orphans = there.filter(pc.and_(is_data, pc.invert(pc.is_in(there["path"], needed))))
    is_old = pc.less(orphans["last_modified_max"], pa.scalar(before, pa.timestamp("us", tz="UTC")))
    old = orphans.filter(is_old) if not living else orphans.slice(0, 0)
    return Orphans(
        paths=tuple(old["path"].to_pylist()),
        nbytes=pc.sum(old["size_bytes_max"]).as_py() or 0,
        young=orphans.num_rows - old.num_rows,
        living=living,
    )


def delete_files(table: VectorTable, paths: Sequence[str]) -> None:
    """Delete files below a table's address.

    Raises:
        TableError: The table is in a store that this cannot delete from.
    """
    if "://" not in table.uri:
        for path in paths:
            (Path(table.uri) / path).unlink(missing_ok=True)
        return
    if not table.uri.startswith("s3://"):
        raise TableError(
            f"{table.uri}: orphans can be deleted from local disks and S3 only; delete {len(paths)} files by hand"
        )
    bucket, prefix = split_s3(table.uri.rstrip("/"))
    client = s3_client(table.storage)
    for start in range(0, len(paths), _DELETED_AT_ONCE):
        keys: list[ObjectIdentifierTypeDef] = [
            {"Key": f"{prefix}/{path}"} for path in paths[start : start + _DELETED_AT_ONCE]
        ]
        client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})


def expire_versions(table: VectorTable, older_than: dt.timedelta) -> int:
    """Delete versions of a table and its companions that are older than this and untagged; return the bytes freed."""
    datasets = [table.dataset, *(table.companion(suffix) for suffix in COMPANIONS)]
    stats = [d.cleanup_old_versions(older_than=older_than, error_if_tagged_old_versions=False) for d in datasets]
    return sum(int(s.bytes_removed) for s in stats)


def compact(table: VectorTable) -> int:
    """Rewrite small fragments as large ones, in the companions too; return how many fragments the table has then."""
    for dataset in (table.dataset, *(table.companion(suffix) for suffix in COMPANIONS)):
        dataset.optimize.compact_files()
    return len(table.refresh().dataset.get_fragments())
