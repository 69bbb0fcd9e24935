"""`mlake rejects TABLE`: count and list the samples that could not be embedded."""

from __future__ import annotations

from typing import Annotated

import pyarrow.compute as pc
from cyclopts import Parameter

from jobs.options import AnyCount, Storage, TableAddress, Text
from pipelines.reports.console import open_console
from pipelines.tables.ledger import count_rejects, rejects_of
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig


def main(
    address: TableAddress,
    /,
    *,
    reason: Annotated[str | None, Text] = None,
    limit: Annotated[int, Parameter(metavar="N"), AnyCount] = 20,
    storage: Storage = StorageConfig(),
) -> int:
    """Count and list the samples that could not be embedded.

    Args:
        reason: List only rejects of this reason.
        limit: List at most this many.
    """
    console = open_console()
    rejects = rejects_of(VectorTable.open(address, storage=storage))
    console.print(f"{rejects.num_rows} rejects in {address}")
    for name, count in count_rejects(rejects).items():
        console.print(f"  {count:>8,}  {name}")
    if reason:
        rejects = rejects.filter(pc.field("reason") == reason)
    for row in rejects.sort_by([("uri", "ascending"), ("position", "ascending")]).slice(0, limit).to_pylist():
        where = f"{row['uri']} #{row['position']} {row['key']}"
        console.print(f"{where}: {row['reason']}: {row['message']}", soft_wrap=True)
    return 0
