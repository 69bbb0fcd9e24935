"""`python -m jobs rejects TABLE`: show and count the samples that could not be embedded."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from jobs.options import add_storage, storage_of
from pipelines.tables.table import VectorTable

_WIDE = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("table", help="address of the table")
    parser.add_argument("--reason", help="only rejects of this reason")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="show at most N (default 20)")
    add_storage(parser)


def main(args: argparse.Namespace) -> int:
    """Print counts by reason, then the rejects."""
    # Without a terminal, a row is a line, however long.
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    rejects = VectorTable.open(args.table, storage=storage_of(args)).companion("rejects").to_table()
    counts = rejects.group_by("reason").aggregate([("shard", "count")]).sort_by([("shard_count", "descending")])
    console.print(f"{rejects.num_rows} rejects in {args.table}", highlight=False)
    for row in counts.to_pylist():
        console.print(f"  {row['shard_count']:>8,}  {row['reason']}", highlight=False)
    if args.reason:
        rejects = rejects.filter([reason == args.reason for reason in rejects["reason"].to_pylist()])
    for row in rejects.sort_by([("uri", "ascending"), ("position", "ascending")]).slice(0, args.limit).to_pylist():
        where = f"{row['uri']} #{row['position']} {row['key']}"
        console.print(f"{where}: {row['reason']}: {row['message']}", highlight=False, markup=False, soft_wrap=True)
    return 0
