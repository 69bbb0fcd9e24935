"""Which rows of a table are held out: the one rule by which training and evaluation split a table.

A table made through a head carries the split of the head in its schema's metadata, so that an evaluation asks with
rows that the head did not learn from. Owns reading and writing that record; the rule itself is `schemas.splits.Split`.
"""

from __future__ import annotations

import pyarrow as pa

from pipelines.tables.commits import set_schema_metadata
from pipelines.tables.table import VectorTable
from schemas.errors import FieldNotFound, nearest
from schemas.splits import SPLIT_KEY, Split


def held_out_ids(table: VectorTable, split: Split) -> set[str]:
    """Return the ids of the rows that a split holds out.

    Raises:
        FieldNotFound: The table lacks the split's column.
    """
    known = table.dataset.schema.names
    if split.column not in known:
        raise FieldNotFound(
            f"{table.uri} has no column {split.column!r}, by which rows are held out"
            f"{nearest(split.column, known)}; embed with it in input.keep, or give `queries`, a table of other rows"
        )
    rows = table.dataset.to_table(columns=[*dict.fromkeys(["id", split.column])])
    keys: pa.ChunkedArray = rows[split.column]
    is_held_out = {key: split.holds_out(key) for key in set(keys.to_pylist())}
    return {one for one, key in zip(rows["id"].to_pylist(), keys.to_pylist(), strict=True) if is_held_out[key]}


def split_of(table: VectorTable) -> Split | None:
    """Return the split of the head that a table was made through; None where none is recorded.

    Raises:
        ConfigError: The record is of a newer format, or malformed.
    """
    written = (table.dataset.schema.metadata or {}).get(SPLIT_KEY)
    return None if written is None else Split.from_json(written, table.uri)


def record_split(table: VectorTable, split: Split | None) -> VectorTable:
    """Record the split of a head in a table made through it; return the table with the record."""
    if split is None or split_of(table) == split:
        return table
    set_schema_metadata(table.uri, SPLIT_KEY.decode(), split.to_json(), table.storage)
    return table.refresh()
