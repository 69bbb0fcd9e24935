"""What a filter that finds no row may have meant, and the rows that older versions have of it.

Owns both answers. Owns no filter's check (`rows.py`), and removes nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

import lance
import pyarrow as pa

from pipelines.tables.opening import open_dataset
from pipelines.tables.rows import sql_texts
from pipelines.tables.table import VectorTable
from schemas.columns import VECTOR
from schemas.errors import TableNotFound
from schemas.printable import counted

_COMPARED = re.compile(r"""(?:`([^`]+)`|\b([A-Za-z_]\w*))\s*(?:=|\bIN\s*\()\s*'((?:[^']|'')*)'""", re.IGNORECASE)
_NEAR, _LOOKED_AT = 3, 20_000


def rows_before(table: VectorTable, where: str, columns: Sequence[str]) -> pa.Table:
    """Find the rows that satisfy a filter in older versions, and are not as they were in the newest.

    A fragment that several versions have is read once. Versions without a column of the filter have none.
    """
    newest = table.refresh().dataset
    seen = {_state(fragment) for fragment in newest.get_fragments()}
    found = [newest.schema.empty_table().select(list(columns))]
    for version in sorted(each["version"] for each in newest.versions() if each["version"] < newest.version):
        try:
            fragments = open_dataset(table.uri, table.storage, version).get_fragments()
        except TableNotFound:
            continue  # it was removed meanwhile
        for fragment in fragments:
            if (state := _state(fragment)) in seen:
                continue
            seen.add(state)
            try:
                found.append(fragment.to_table(columns=list(columns), filter=where))
            except ValueError:
                continue
    return pa.concat_tables(found, promote_options="permissive")


def _state(fragment: lance.LanceFragment) -> tuple[int, int]:
    return fragment.fragment_id, fragment.num_deletions


def meant_by(table: VectorTable, where: str) -> tuple[str, ...]:
    """Say in sentences what was looked at by a filter that finds no row, and which values are near those it names."""
    dataset = table.dataset
    names = [f"{field.name} ({field.type})" for field in dataset.schema if not field.name.startswith(VECTOR)]
    rows = counted(dataset.count_rows(), "row")
    return (f"none of the {rows} of {table.uri} satisfies it; its columns are {', '.join(names)}", *_near(table, where))


def _near(table: VectorTable, where: str) -> Iterator[str]:
    for in_ticks, plain, text in _COMPARED.findall(where):
        name, text = in_ticks or plain, text.replace("''", "'")
        if name not in table.dataset.schema.names or not pa.types.is_string(table.dataset.schema.field(name).type):
            continue
        alike = f"lower(trim(`{name}`)) = {sql_texts([text.strip().lower()])}"
        values = _values(table, name, alike) or _values(table, name, None)
        if text in values:
            continue
        if near := difflib.get_close_matches(text.lower(), {value.lower() for value in values}, n=_NEAR):
            written = [value for value in values if value.lower() in near][:_NEAR]
            yield f"no `{name}` is {text!r}; near it are {', '.join(map(repr, written))}"
        else:
            yield f"no `{name}` is {text!r}; there are {', '.join(map(repr, values[:_NEAR])) or 'no texts'}"


def _values(table: VectorTable, name: str, where: str | None) -> list[str]:
    found = table.dataset.scanner(columns=[name], filter=where, limit=_LOOKED_AT).to_table()[name]
    return [value for value in found.unique().to_pylist() if value is not None]
