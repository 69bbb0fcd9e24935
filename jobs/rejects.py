"""`mlake rejects TABLE`: count and list the samples that could not be embedded."""

from __future__ import annotations

from typing import Annotated

import pyarrow.compute as pc
from cyclopts import Parameter

from jobs.options import AnyCount, Flag, Storage, TableAddress, Text
from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line
from pipelines.shards.names import format_of
from pipelines.tables.ledger import count_rejects, rejects_of
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.printable import counted


def main(
    address: TableAddress,
    /,
    *,
    reason: Annotated[str | None, Text] = None,
    limit: Annotated[int, Parameter(metavar="N"), AnyCount] = 20,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    storage: Storage = StorageConfig(),
) -> int:
    """Count and list the samples that could not be embedded.

    Args:
        reason: List only rejects of this reason.
        limit: List at most this many.
        as_json: Print one JSON object per reject listed.
    """
    rejects = rejects_of(VectorTable.open(address, storage=storage))
    counts = count_rejects(rejects)
    chosen = rejects.filter(pc.field("reason") == reason) if reason else rejects
    listed = chosen.sort_by([("uri", "ascending"), ("position", "ascending")]).slice(0, limit).to_pylist()
    if reason and counts and reason not in counts:
        open_console(is_error=True).print(
            f"none has the reason {reason!r}; the reasons in this table are: {', '.join(counts)}", soft_wrap=True
        )
    if as_json:
        for row in listed:
            print(json_line(row))
        return 0
    console = open_console()
    console.print(f"{counted(rejects.num_rows, 'reject')} in {address}", soft_wrap=True)
    for name, count in counts.items():
        console.print(f"  {count:>8,}  {name}")
    for row in listed:
        # A person counts lines from 1.
        is_lines = format_of(row["uri"]) == "jsonl"
        place = f"line {row['position'] + 1}" if is_lines else f"#{row['position']}"
        where = " ".join(part for part in (row["uri"], place, row["key"]) if part)
        console.print(f"{where}: {row['reason']}: {row['message']}", soft_wrap=True)
    return 0
