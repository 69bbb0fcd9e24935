"""`python -m jobs search TABLE "words"`: the nearest rows to words, to an image file, or to each line of stdin."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from jobs.options import add_storage, storage_of
from pipelines.funnel import Funnel
from pipelines.tables.table import VectorTable
from schemas.errors import InputError

_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_Search = Callable[[str | bytes], pa.Table]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("table", help="address of the table")
    parser.add_argument("query", help="words, an image file, or - for one query per line of stdin")
    parser.add_argument("--k", type=int, default=10, help="rows per query (default 10)")
    parser.add_argument("--where", metavar="SQL", help='search only rows that satisfy this, e.g. "shard = 3"')
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="columns to print (default: id and the kept ones)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dims", type=int, help="compare only this many dims; scores are cosines at these")
    how.add_argument("--exact", action="store_true", help="compare every row at full width, even if there is a funnel")
    how.add_argument("--recall", type=float, help="recall to aim for, where the funnel's card has it")
    parser.add_argument("--json", action="store_true", help="print one JSON object per row found")
    add_storage(parser)


def main(args: argparse.Namespace) -> int:
    """Search once, or once per line; everything is loaded once."""
    console = Console()
    search = _searcher(args)
    for query in _queries(args.query):
        rows = search(_read(query)).to_pylist()
        if args.json:
            for row in rows:
                print(json.dumps({"query": query, **row}, default=str), flush=True)
        else:
            console.print(_grid(query, rows) if rows else f"{query}: nothing found", highlight=False)
    return 0


def _searcher(args: argparse.Namespace) -> _Search:
    """Return the search to use: exact where asked for, else the table's funnel; in RAM only if many queries come."""
    table = VectorTable.open(args.table, storage=storage_of(args))
    is_one, homes = args.query != "-", Funnel.homes(table)
    # A funnel in RAM reads the whole table before its first answer.
    home = homes[-1 if is_one else 0] if homes else None
    is_worth_it = home == "lake" or not is_one or args.recall is not None
    if args.dims or args.exact or home is None or not is_worth_it:
        return lambda query: table.search(query, args.k, dims=args.dims, where=args.where, columns=args.columns)
    funnel = Funnel.open(table, home=home)
    return lambda query: funnel.search(query, args.k, args.where, recall=args.recall, columns=args.columns)


def _queries(given: str) -> Iterator[str]:
    if given != "-":
        yield given
        return
    for line in sys.stdin:
        if stripped := line.strip():
            yield stripped


def _read(query: str) -> str | bytes:
    """Return the query, or the bytes of the image file that it names."""
    path = Path(query)
    if path.suffix.lower() not in _IMAGES:
        return query
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{query} looks like an image file but cannot be read: {error.strerror}") from None


def _grid(query: str, rows: list[dict[str, object]]) -> Table:
    names = ["score", *(name for name in rows[0] if name != "score")]
    grid = Table(*names, title=query, title_justify="left", box=None)
    for row in rows:
        grid.add_row(*(f"{row[name]:.4f}" if name == "score" else _cell(row[name]) for name in names))
    return grid


def _cell(value: object) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
