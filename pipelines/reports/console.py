"""The one way to the terminal: what is printed means itself.

Owns the console of every job. Text is printed as it is: no markup, no emoji codes, no highlighting, since ids, captions
and error messages come from data. Characters that command a terminal (escape sequences, a carriage return, a change of
writing direction) are shown as a sign of one column. A style is given as `style=` or as a `Text`.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult, RichCast
from rich.control import Control
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from schemas.printable import printable

_WIDE = 10_000


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
def warnings_as_notes(category: type[Warning]) -> Iterator[None]:
    """Print warnings of a category as notes to the standard error stream, every time."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        open_console(is_error=True).print(f"note: {message}", soft_wrap=True)

    with warnings.catch_warnings():
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
        yield from _printable_segments(console.render(self._content, options))


def _printable_segments(segments: Iterable[Any]) -> Iterable[Segment]:
    for text, style, control in segments:
        yield Segment(text, style, control) if control else Segment(printable(text), style)


def answers_grid(query: str, rows: list[dict[str, object]]) -> Table:
    """Return the rows found for a query as a table, its `score` column first."""
    names = ["score", *(name for name in rows[0] if name != "score")]
    grid = Table(*names, title=query, title_justify="left", box=None)
    for row in rows:
        grid.add_row(*(f"{row[name]:.4f}" if name == "score" else _answer_cell(row[name]) for name in names))
    return grid


def _answer_cell(value: object) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
