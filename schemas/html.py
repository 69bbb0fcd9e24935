"""Pieces of HTML by which tables, hits, plans and cards show themselves in a notebook.

Owns the look and the escaping: every text is escaped here, since it may come from a stranger's table. Colours are the
notebook's own, so that dark themes work. Owns no content.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup, escape
from pydantic import BaseModel

from schemas.printable import printable

_CELL = Markup("padding:.2em .8em .2em 0;text-align:{};vertical-align:top;max-width:32em;overflow-wrap:anywhere")
_LINE = Markup("border-bottom:1px solid #8886")


class ShownAsHtml(BaseModel):
    """A record that a notebook shows as tables: its values, and below them each list of records."""

    def _repr_html_(self) -> str:
        return _record(type(self).__name__, self)


def facts(title: str, named: Mapping[str, object]) -> str:
    """Return a title and a table of two columns: a name and its value."""
    rows = [
        Markup('<tr><th style="{}" scope="row">{}</th><td style="{}">{}</td></tr>').format(
            _style("left"), _text(name), _style("left"), _cell(value)
        )
        for name, value in named.items()
    ]
    return str(_table(title, Markup(""), rows))


def grid(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a head; numbers stand to the right, and a value made by `picture` is shown as it is."""
    listed = [list(row) for row in rows]
    sides = [
        "right" if listed and all(_is_number(row[place]) for row in listed) else "left" for place in range(len(heads))
    ]
    head = Markup("").join(
        Markup('<th style="{}" scope="col">{}</th>').format(_style(side), _text(name))
        for name, side in zip(heads, sides, strict=True)
    )
    body = [
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup('<td style="{}">{}</td>').format(_style(side), _cell(value))
                for value, side in zip(row, sides, strict=True)
            )
        )
        for row in listed
    ]
    return str(_table(title, Markup('<thead><tr style="{}">{}</tr></thead>').format(_LINE, head), body))


def picture(png: bytes) -> Markup:
    """Return an image whose bytes are in the page itself."""
    return Markup('<img alt="" style="max-height:6em;max-width:9em" src="{}">').format(data_url(png))


def data_url(png: bytes) -> str:
    """Encode a PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _record(title: str, record: BaseModel) -> str:
    values, below = dict[str, object](), list[str]()
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, BaseModel):
            below.append(_record(name, value))
        elif isinstance(value, tuple) and value and all(isinstance(part, BaseModel) for part in value):
            heads = list(type(value[0]).model_fields)
            below.append(grid(name, heads, [[_short(getattr(part, head)) for head in heads] for part in value]))
        else:
            values[name] = _short(value)
    return facts(title, values) + "".join(below)


def _short(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return "" if value is None or value == () else value


def _table(title: str, head: Markup, rows: Iterable[Markup]) -> Markup:
    return Markup(
        '<table style="border-collapse:collapse"><caption style="text-align:left;font-weight:600;padding:.3em 0">'
        "{}</caption>{}<tbody>{}</tbody></table>"
    ).format(_text(title), head, Markup("").join(rows))


def _style(side: str) -> Markup:
    return Markup(_CELL).format(side)


def _text(value: object) -> Markup:
    return escape(printable(str(value)))


def _cell(value: object) -> Markup:
    return value if isinstance(value, Markup) else _text(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
