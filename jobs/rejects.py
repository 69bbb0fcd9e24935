"""`mlake rejects TABLE`: count and list the samples that could not be embedded."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from jobs.options import Storage, TableAddress
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig

_WIDE = 10_000


def main(
    address: TableAddress,
    /,
    *,
    reason: str | None = None,
    limit: Annotated[int, Parameter(metavar="N")] = 20,
    storage: Storage = StorageConfig(),
) -> int:
    """Count and list the samples that could not be embedded.

    Args:
        reason: List only rejects of this reason.
        limit: List at most this many.
    """
    # Without a terminal, a row is a line, however long.
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    rejects = VectorTable.open(address, storage=storage).companion("rejects").to_table()
    counts = rejects.group_by("reason").aggregate([("shard", "count")]).sort_by([("shard_count", "descending")])
    console.print(f"{rejects.num_rows} rejects in {address}", highlight=False)
    for row in counts.to_pylist():
        console.print(f"  {row['shard_count']:>8,}  {row['reason']}", highlight=False)
    if reason:
        rejects = rejects.filter([given == reason for given in rejects["reason"].to_pylist()])
    for row in rejects.sort_by([("uri", "ascending"), ("position", "ascending")]).slice(0, limit).to_pylist():
        where = f"{row['uri']} #{row['position']} {row['key']}"
        console.print(f"{where}: {row['reason']}: {row['message']}", highlight=False, markup=False, soft_wrap=True)
    return 0
