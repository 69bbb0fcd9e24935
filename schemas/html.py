"""Pieces of HTML by which tables, hits, plans and cards show themselves in a notebook.

Owns the look and the escaping: every text is escaped here, since it may come from a stranger's table. Colours are the
notebook's own, so that dark themes work. Owns no content.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence

from markupsafe import Markup, escape
from pydantic import BaseModel

from schemas.printable import printable

_CELL = Markup("padding:.2em .8em .2em 0;text-align:{};vertical-align:top;max-width:32em;overflow-wrap:anywhere")
_BOLD = Markup(' style="font-weight:600"')
_LINE = Markup("border-bottom:1px solid #8886")


class ShownAsHtml(BaseModel):
    """A record that a notebook shows as tables: its values, and below them each list of records."""

    def _repr_html_(self) -> str:
        return _record(type(self).__name__, self)


def one_line(title: str, named: Mapping[str, object]) -> str:
    """Return the same in one line, for a terminal."""
    return printable(f"<{title} {'; '.join(f'{name}: {value}' for name, value in named.items())}>")


def facts(title: str, named: Mapping[str, object]) -> str:
    """Return a title and a table of two columns: a name and its value."""
    rows = [
        Markup('<tr><th style="{}" scope="row">{}</th><td style="{}">{}</td></tr>').format(
            _style("left"), _text(name), _style("left"), _cell(value)
        )
        for name, value in named.items()
    ]
    return str(_table(title, Markup(""), rows))


def grid(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], *, bold: int | None = None) -> str:
    """Return a table with a head; columns of numbers stand to the right.

    Args:
        title: Its title.
        heads: Heads of the columns.
        rows: A value for each head; one made by `picture` is shown as it is.
        bold: Place of a row to show in bold.
    """
    listed = [list(row) for row in rows]
    sides = [_side([row[place] for row in listed]) for place in range(len(heads))]
    head = Markup("").join(
        Markup('<th style="{}" scope="col">{}</th>').format(_style(side), _text(name))
        for name, side in zip(heads, sides, strict=True)
    )
    body = [
        Markup("<tr{}>{}</tr>").format(
            _BOLD if number == bold else "",
            Markup("").join(
                Markup('<td style="{}">{}</td>').format(_style(side), _cell(value))
                for value, side in zip(row, sides, strict=True)
            ),
        )
        for number, row in enumerate(listed)
    ]
    return str(_table(title, Markup('<thead><tr style="{}">{}</tr></thead>').format(_LINE, head), body))


def picture(png: bytes) -> Markup:
    """Return an image whose bytes are in the page itself."""
    return Markup('<img alt="" style="max-height:6em;max-width:9em" src="{}">').format(data_url(png))


def data_url(png: bytes) -> str:
    """Encode a PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _record(title: str, record: BaseModel) -> str:
    """Show what a record holds; what is empty is left out."""
    values, below = dict[str, object](), list[str]()
    for name in type(record).model_fields:
        value, label = getattr(record, name), name.replace("_", " ")
        if value is None or value in ("", ()):
            continue
        if isinstance(value, BaseModel):
            below.append(_shown(label, value))
        elif isinstance(value, tuple) and isinstance(value[0], BaseModel):
            below += _records(label, value)
        else:
            values[label] = _short(value)
    return facts(title, values) + "".join(below)


def _records(label: str, records: Sequence[BaseModel]) -> Iterator[str]:
    """Show records of one kind as the rows of a table; one after the other where they hold records themselves."""
    names = list(type(records[0]).model_fields)
    held = {name: [getattr(record, name) for record in records] for name in names}
    if any(isinstance(value, BaseModel) for values in held.values() for value in values):
        for number, record in enumerate(records, 1):
            yield _shown(label if len(records) == 1 else f"{label} {number}", record)
        return
    names = [name for name in names if any(value is not None and value not in ("", ()) for value in held[name])]
    rows = [[_short(getattr(record, name)) for name in names] for record in records]
    yield grid(label, [name.replace("_", " ") for name in names], rows)


def _shown(label: str, record: BaseModel) -> str:
    """Show a record in its own way, if it has one."""
    if isinstance(record, ShownAsHtml) and type(record)._repr_html_ is not ShownAsHtml._repr_html_:
        return record._repr_html_()
    return _record(label, record)


def _short(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} {value.tzname() or ''}".rstrip()
    if isinstance(value, tuple):
        return ", ".join(str(_short(part)) for part in value)
    return "" if value is None else value


def _table(title: str, head: Markup, rows: Iterable[Markup]) -> Markup:
    return Markup(
        '<table style="border-collapse:collapse"><caption style="text-align:left;font-weight:600;padding:.3em 0">'
        "{}</caption>{}<tbody>{}</tbody></table>"
    ).format(_text(title), head, Markup("").join(rows))


def _style(side: str) -> Markup:
    return Markup(_CELL).format(side)


def _text(value: object) -> Markup:
    return escape(printable(f"{value:,}" if _is_whole(value) else str(value)))


def _cell(value: object) -> Markup:
    return value if isinstance(value, Markup) else _text(value)


def _side(values: Sequence[object]) -> str:
    numbers = [value for value in values if value != ""]
    return "right" if numbers and all(_is_whole(one) or isinstance(one, float) for one in numbers) else "left"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
