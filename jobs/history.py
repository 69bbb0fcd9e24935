"""`mlake history TABLE`: what was published when, and how each night went."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from jobs.options import AnyCount, Flag, Storage, TableAddress
from pipelines.reports.console import open_console
from pipelines.reports.history import nights_table, publications_table
from pipelines.reports.json_lines import json_line
from pipelines.storage.addresses import absolute
from pipelines.tables.night_log import read_nights
from pipelines.tables.opening import open_dataset
from pipelines.tables.publication_log import read_log
from schemas.config import StorageConfig


def main(
    address: TableAddress,
    /,
    *,
    limit: Annotated[int, Parameter(metavar="N"), AnyCount] = 20,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    storage: Storage = StorageConfig(),
) -> int:
    """List the publications and the nights of a table.

    Args:
        limit: List at most this many of each, the latest ones.
        as_json: Print one JSON object a line.
    """
    base = absolute(address)
    log = read_log(base, storage)[-limit:] if limit else []
    nights = read_nights(base, storage, limit) if limit else []
    if not log and not nights:
        open_dataset(base, storage)
    if as_json:
        for kind, records in (("publication", log), ("night", nights)):
            for record in records:
                print(json_line({"kind": kind} | json.loads(record.to_json())))
        return 0
    console = open_console()
    if not log and not nights:
        console.print(f"nothing was published of {address}, and no night ran; run: mlake publish {address}")
        return 0
    if log:
        console.print(publications_table(log))
    if nights:
        console.print(nights_table(nights))
    return 0
