"""Shortlist tables as they are stored: their columns, what they hold, and the pieces of one that is being made.

Owns names, types and the record of what was asked; owns no data.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import pyarrow as pa

from schemas.columns import VECTOR
from schemas.errors import TableError
from schemas.stored import Format, Stored

_KEY = b"lake:shortlist"
_TABLE = Format("the shortlist table", remedy="run `mlake shortlist` with another lists.table")

_PIECES = Format("the plan of an unfinished shortlist table", remedy="delete that folder to search again")

COLUMNS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("dim", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)

ROWS = pa.schema([pa.field("query_row", pa.int64(), nullable=False), pa.field("row", pa.int64(), nullable=False)])
"""Further columns since 0.2: Lance's row ids of the query and of the row, since shards may share ids."""

PIECE = pa.schema(
    [
        pa.field("query", pa.int64(), nullable=False),
        pa.field("dim", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),  # since 0.2 a name of `shortlist.scan.row_names`
        pa.field("score", pa.float32(), nullable=False),
    ]
)

# The plan of a run that has not ended: `spec` is the JSON of a `ShortlistSpec`.
PIECES_PLAN = pa.schema([pa.field("spec", pa.string()), pa.field("memory_bytes", pa.int64())])


class ShortlistSpec(Stored):
    """What a shortlist table holds: the K nearest of every query at every dim, as of one version of both sides.

    Attributes:
        queries: Address of the table whose vectors are the queries.
        queries_version: Its version.
        vectors: Address of the table that is searched.
        vectors_version: Its version.
        space: Fingerprint of the space of both.
        dims: Prefix widths.
        k: Rows for each query at each dim.
        where: SQL that the searched rows satisfy.
        exclude_self: Whether a row with the query's own id is left out.
        column: Column that was searched: `vector`, or the prefix column that serves all dims.
        metric: The measure of nearness.
    """

    stored_as: ClassVar[Format] = Format("the record of what the lists hold", remedy=_TABLE.remedy)

    queries: str
    queries_version: int
    vectors: str
    vectors_version: int
    space: str
    dims: tuple[int, ...]
    k: int
    where: str | None = None
    exclude_self: bool = False
    column: str = VECTOR
    metric: Literal["cosine"] = "cosine"


def check_pieces(plan: pa.Table, where: str) -> None:
    """Refuse the plan of an unfinished run that this release cannot read.

    Raises:
        TableError: It is of a newer format, or malformed.
    """
    _PIECES.check_columns(plan.schema, PIECES_PLAN, where)
    if plan.num_rows != 1:
        raise _PIECES.malformed(where, f"must have one row, not {plan.num_rows}")


def shortlist_schema(spec: ShortlistSpec) -> pa.Schema:
    """Return the schema of a shortlist table: rows in order of query, dim and rank, rank 1 the nearest."""
    return pa.schema([*COLUMNS, *ROWS]).with_metadata({_KEY: spec.to_json().encode()})


def shortlist_spec(schema: pa.Schema, where: str) -> ShortlistSpec:
    """Read what a shortlist table holds from its schema.

    Raises:
        TableError: The table is no shortlist table, is of a newer format, or its record is malformed.
    """
    written = (schema.metadata or {}).get(_KEY)
    if written is None:
        raise TableError(f"{where} is not a shortlist table; name another address for the lists")
    _TABLE.check_columns(schema, COLUMNS, where)
    return ShortlistSpec.from_json(written, where)
