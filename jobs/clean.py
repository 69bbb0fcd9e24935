"""`mlake clean TABLE`: remove files that no version of a table needs and no living run writes."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from jobs.options import DryRun, Flag, Storage, TableAddress, within
from pipelines.reports.console import open_console
from pipelines.storage.addresses import absolute
from pipelines.tables.generations import generations_of
from pipelines.tables.maintenance import (
    compact_table,
    delete_orphans,
    delete_spare,
    expire_table,
    find_orphans,
    find_spare,
    unneeded_files,
)
from pipelines.tables.publication_log import generation_uri
from pipelines.tables.retention import remove_leftovers
from pipelines.tables.runs import living_runs
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.errors import RunError
from schemas.printable import counted


def main(
    address: TableAddress,
    /,
    *,
    older_than: Annotated[float, Parameter(metavar="DAYS", validator=within(0, 36_500))] = 14.0,
    compact: Flag = False,
    dry_run: DryRun = False,
    storage: Storage = StorageConfig(),
) -> int:
    """Remove files that no version of a table needs.

    All generations of the table are cleaned, with their shortlist tables, and with the rotations and codebooks that no
    version refers to. Files of a run that is still at work stay, and so do versions that carry a tag.

    Args:
        older_than: Expire untagged versions older than this many days.
        compact: Also rewrite small fragments as large ones.
    """
    console = open_console()
    base = absolute(address)
    if not dry_run and (nbytes := remove_leftovers(base, storage)):
        console.print(f"{nbytes:,} bytes of generations whose removal was interrupted")
    for generation in generations_of(base, storage):
        table = VectorTable.open(generation_uri(base, generation), storage=storage)
        if generation > 1:
            console.print(f"generation {generation}: {table.uri}", soft_wrap=True)
        _clean(table, console, older_than=dt.timedelta(days=older_than), compact=compact, dry_run=dry_run)
    return 0


def _clean(table: VectorTable, console: Console, *, older_than: dt.timedelta, compact: bool, dry_run: bool) -> None:
    orphans = find_orphans(table)
    for run in orphans.living:
        console.print(f"run {run} is at work: its files stay")
    if orphans.young:
        console.print(f"too young to tell whether a run needs them: {counted(orphans.young, 'file')}")
    console.print(f"{counted(len(orphans.paths), 'orphan')}, {orphans.nbytes:,} bytes")
    if dry_run:
        console.print(f"{sum(file.nbytes for file in find_spare(table)):,} bytes of old rotations and codebooks")
        return
    delete_orphans(table, orphans)
    if compact:
        console.print(f"{counted(compact_table(table), 'fragment')} after compaction")
    console.print(f"{expire_table(table.refresh(), older_than):,} bytes of old versions")
    console.print(f"{delete_spare(table.refresh()):,} bytes of old rotations and codebooks")
    left = len(unneeded_files(table.uri, table.storage)) - orphans.young
    if left > 0 and not living_runs(table):
        # Lance does not tell what a store refuses to delete.
        raise RunError(
            f"{table.uri}: {counted(left, 'file')} of old versions could not be deleted; the right to delete, in S3 "
            f"s3:DeleteObject, is needed; then run again: mlake clean {table.uri}"
        )
