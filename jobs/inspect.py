"""`mlake inspect TABLE`: what a table is, what it holds, whether its indexes and funnels hold, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from jobs.options import Flag, Storage, TableAddress, Text, new_file
from pipelines.reports.console import open_console
from pipelines.reports.inspection import inspect_table
from pipelines.reports.inspection_output import inspection_page, print_inspection
from pipelines.reports.json_lines import json_line
from pipelines.reports.page import write_report
from pipelines.tables.opening import is_table, tables_in
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig


def main(
    address: TableAddress,
    /,
    *,
    version: Annotated[str | None, Parameter(metavar="VERSION"), Text] = None,
    html: Annotated[Path | None, new_file("html")] = None,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    storage: Storage = StorageConfig(),
) -> int:
    """Say what a table is, whether its indexes and funnels hold, and what to do next.

    The tables in a local folder are listed.

    Args:
        version: A version number, a tag, or prod. Default: the newest.
        html: Write it as one page that loads nothing from elsewhere.
        as_json: Print one JSON object.
    """
    if not is_table(address) and (tables := tables_in(address)):
        _list(address, tables, storage, as_json=as_json)
        return 0
    wanted = int(version) if version is not None and version.isascii() and version.isdigit() else version
    found = inspect_table(VectorTable.open(address, wanted, storage))
    if html is not None:
        write_report(inspection_page(found), html)
        open_console(is_error=True).print(f"written: {html}", soft_wrap=True)
    if as_json:
        print(json_line(found.model_dump(mode="json")))
    elif html is None:
        print_inspection(found, open_console())
    return 0


def _list(folder: str, names: Sequence[str], storage: StorageConfig, *, as_json: bool) -> None:
    """Print a line for each table of a folder."""
    grid = Table("table", "rows", "version", "encoder", "dims", box=None, pad_edge=False)
    for name in names:
        table = VectorTable.open(Path(folder) / name, storage=storage)
        found = {"table": table.uri, "rows": len(table), "version": table.dataset.version}
        found |= {"encoder": table.space.encoder, "dims": table.space.ladder.dims}
        if as_json:
            print(json_line(found))
        grid.add_row(name, f"{len(table):,}", str(found["version"]), table.space.encoder, str(table.space.ladder))
    if not as_json:
        open_console().print(grid)
