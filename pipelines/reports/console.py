"""The one way to the terminal: what is printed means itself.

Owns the console of every job. Text is printed as it is: no markup, no emoji codes, no highlighting, since ids, captions
and error messages come from data. Characters that command a terminal (escape sequences, a carriage return, a change of
writing direction) are shown as a sign of one column. A style is given as `style=` or as a `Text`. A table never cuts a
word or a number: where its columns are too many for the terminal, each row is printed as a record.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult, RichCast
from rich.control import Control
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from schemas.printable import printable

_WIDE = 10_000
# A longer word, such as an address, may be broken over lines.
_WORD = 32


def open_console(*, is_error: bool = False, is_page: bool = False) -> Console:
    """Return a console that prints text as it is.

    Args:
        is_error: Print to the standard error stream.
        is_page: Print within the width of a page also where there is no terminal. Otherwise a line stays whole there,
            however long, unless `COLUMNS` says how wide it may be.
    """
    stream = sys.stderr if is_error else sys.stdout
    is_whole = not (is_page or stream.isatty() or os.environ.get("COLUMNS"))
    width = _WIDE if is_whole else None
    console = Console(stderr=is_error, width=width, markup=False, emoji=False, highlight=False)
    console.push_render_hook(_PrintableHook())
    return console


def print_error(text: str) -> None:
    """Print one error to the standard error stream."""
    open_console(is_error=True).print(Text.assemble(("error:", "bold red"), " ", text), soft_wrap=True)


@contextmanager
def warnings_as_notes(*categories: type[Warning]) -> Iterator[None]:
    """Print warnings of some categories as notes to the standard error stream, every time."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        open_console(is_error=True).print(f"note: {message}", soft_wrap=True)

    with warnings.catch_warnings():
        for category in categories:
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield


def never_fail_to_print() -> None:
    """Have the standard streams escape what their encoding lacks, in place of an error."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _PrintableHook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [part if isinstance(part, Control) else _Printable(part) for part in renderables]


class _Printable:
    def __init__(self, content: ConsoleRenderable | RichCast | str) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        content = self._content
        if isinstance(content, Table):
            content = _fitted(content, console, options)
        yield from _printable_segments(console.render(content, options))


def _printable_segments(segments: Iterable[Any]) -> Iterable[Segment]:
    for text, style, control in segments:
        yield Segment(text, style, control) if control else Segment(printable(text), style)


def _fitted(table: Table, console: Console, options: ConsoleOptions) -> Table:
    """Return a table that breaks no word, its widest columns narrowed; or its rows as records, if that is too wide."""
    least, widths = list[int](), list[int]()
    for column in table.columns:
        cells = [str(column.header) if table.show_header else "", *map(str, column.cells)]
        longest = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
        whole = max((cell_len(line) for cell in cells for line in cell.splitlines()), default=0)
        least.append(max(column.min_width or 0, whole if column.no_wrap else min(longest, _WORD)))
        widths.append(max(least[-1], whole))
        column.overflow, column.width = "fold", widths[-1]
    between = Measurement.get(console, options.update(width=_WIDE), table).maximum - sum(widths)
    room = options.max_width - between
    if sum(least) > room:
        return _records(table) if table.show_header else _unfitted(table)
    while sum(widths) > room:
        widest = max((i for i, width in enumerate(widths) if width > least[i]), key=lambda i: widths[i])
        widths[widest] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    return table


def _unfitted(table: Table) -> Table:
    for column in table.columns:
        column.width = None
    return table


def _records(table: Table) -> Table:
    """Return the rows of a table below each other: a line for each value, after the name of its column."""
    shown = Table.grid("", "", padding=(0, 2))
    shown.title, shown.title_justify, shown.title_style = table.title, "left", table.title_style
    shown.caption, shown.caption_justify = table.caption, "left"
    heads = [str(column.header) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = zip(heads, row, strict=True)
        shown.add_row(*first)
        for head, cell in others:
            if str(cell):
                shown.add_row(f"  {head}", cell)
    for column in shown.columns:
        column.overflow = "fold"
    return shown


def answers_grid(query: str, rows: list[dict[str, object]]) -> Table:
    """Return the rows found for a query as a table, its `score` column first."""
    names = ["score", *(name for name in rows[0] if name != "score")]
    grid = Table(*names, title=query, title_justify="left", box=None)
    for row in rows:
        grid.add_row(*(f"{row[name]:.4f}" if name == "score" else _answer_cell(row[name]) for name in names))
    return grid


def _answer_cell(value: object) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
