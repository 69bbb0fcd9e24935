"""`mlake history TABLE`: what was published when, how each night went, and on a page what changed in answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from jobs.options import AnyCount, Flag, Storage, TableAddress, Text, Trust, new_file, within
from pipelines.reports.console import open_console
from pipelines.reports.history import nights_table, publications_table
from pipelines.reports.json_lines import json_line
from pipelines.storage.addresses import absolute
from pipelines.tables.night_log import read_nights
from pipelines.tables.opening import open_dataset
from pipelines.tables.pictures import Pictures
from pipelines.tables.publication_log import read_log
from schemas.config import StorageConfig, TrustConfig
from schemas.nights import Night
from schemas.publications import Publication

_PAGE = Group("Page", help="With --html.")


@Parameter(name="*", group=_PAGE)
@dataclass(frozen=True)
class PageOptions:
    """What is on the page.

    Attributes:
        ask: Words to ask of what was published before and of prod. May be repeated. Default: rows of the table.
        queries: Rows of the table that ask, where no words are given; 0 asks nothing.
        images: Folder with the pictures of the rows, where a kept column holds their paths.
    """

    ask: Annotated[list[str] | None, Parameter(metavar="WORDS"), Text] = None
    queries: Annotated[int, Parameter(metavar="N", validator=within(0, 1000))] = 6
    images: Annotated[Path | None, Parameter(metavar="FOLDER")] = None


def main(
    address: TableAddress,
    /,
    *,
    limit: Annotated[int, Parameter(metavar="N"), AnyCount] = 20,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    html: Annotated[Path | None, new_file("html")] = None,
    page: PageOptions = PageOptions(),
    trust: Trust = TrustConfig(),
    storage: Storage = StorageConfig(),
) -> int:
    """List the publications and the nights of a table.

    Args:
        limit: List at most this many of each, the latest ones.
        as_json: Print one JSON object a line.
        html: Write a page that loads nothing from elsewhere: trends, and what changed in answers.
    """
    base = absolute(address)
    log = read_log(base, storage)[-limit:] if limit else []
    nights = read_nights(base, storage, limit) if limit else []
    if not log and not nights:
        open_dataset(base, storage)
    if html is not None and (log or nights):
        _write(base, nights, log, html, page, trust, storage)
        open_console(is_error=True).print(f"written: {html}", soft_wrap=True)
    if as_json:
        for kind, records in (("publication", log), ("night", nights)):
            for record in records:
                print(json_line({"kind": kind} | json.loads(record.to_json())))
        return 0
    console = open_console()
    if not log and not nights:
        console.print(f"nothing was published of {address}, and no night ran; run: mlake publish {address}")
    if html is not None:
        return 0
    if log:
        console.print(publications_table(log))
    if nights:
        console.print(nights_table(nights))
    return 0


def _write(
    base: str,
    nights: Sequence[Night],
    log: Sequence[Publication],
    html: Path,
    options: PageOptions,
    trust: TrustConfig,
    storage: StorageConfig,
) -> None:
    from pipelines.nightly.answers import ask_twice  # here, since a list needs none of it
    from pipelines.reports.history_page import history_page
    from pipelines.reports.page import write_report

    shown, pictures = read_log(base, storage), Pictures(options.images)
    compared = ask_twice(base, shown, options.ask or options.queries, pictures, storage, trust)
    write_report(history_page(base, nights, log, compared), html)
