"""`python -m jobs clean TABLE`: remove what no version of a table needs, and never what a living run does."""

from __future__ import annotations

import argparse
import datetime as dt

from rich.console import Console

from jobs.options import add_storage, storage_of
from pipelines.tables.maintenance import compact, delete_files, expire_versions, find_orphans
from pipelines.tables.table import VectorTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("table", help="address of the table")
    parser.add_argument(
        "--older-than", type=float, default=14.0, metavar="DAYS", help="forget untagged versions so old"
    )
    parser.add_argument("--compact", action="store_true", help="also rewrite small fragments as large ones")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    add_storage(parser)


def main(args: argparse.Namespace) -> int:
    """Clean, and say what was removed."""
    console = Console()
    table = VectorTable.open(args.table, storage=storage_of(args))
    orphans = find_orphans(table)
    for run in orphans.living:
        console.print(f"run {run} is at work: its files stay", highlight=False)
    if orphans.young:
        console.print(f"{orphans.young} files are too young to tell whether a run needs them", highlight=False)
    console.print(f"{len(orphans.paths)} orphans, {orphans.nbytes:,} bytes", highlight=False)
    if args.dry_run:
        return 0
    delete_files(table, orphans.paths)
    if args.compact:
        console.print(f"{compact(table)} fragments after compaction", highlight=False)
    freed = expire_versions(table.refresh(), dt.timedelta(days=args.older_than))
    console.print(f"{freed:,} bytes of old versions", highlight=False)
    return 0
