"""`mlake clean TABLE`: remove files that no version of a table needs and no living run writes."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from cyclopts import Parameter

from jobs.options import DryRun, Flag, Storage, TableAddress, within
from pipelines.reports.console import open_console
from pipelines.tables.maintenance import compact_table, delete_orphans, expire_table, find_orphans
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig


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

    Files of a run that is still at work stay, and so do versions that carry a tag.

    Args:
        older_than: Expire untagged versions older than this many days.
        compact: Also rewrite small fragments as large ones.
    """
    console = open_console()
    table = VectorTable.open(address, storage=storage)
    orphans = find_orphans(table)
    for run in orphans.living:
        console.print(f"run {run} is at work: its files stay")
    if orphans.young:
        console.print(f"{orphans.young} files are too young to tell whether a run needs them")
    console.print(f"{len(orphans.paths)} orphans, {orphans.nbytes:,} bytes")
    if dry_run:
        return 0
    delete_orphans(table, orphans)
    if compact:
        console.print(f"{compact_table(table)} fragments after compaction")
    freed = expire_table(table.refresh(), dt.timedelta(days=older_than))
    console.print(f"{freed:,} bytes of old versions")
    return 0
