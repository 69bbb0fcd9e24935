"""A shortlist table says what it holds; other tables, newer ones and damaged ones are refused."""

from __future__ import annotations

import pyarrow as pa
import pytest

from schemas.errors import TableError
from schemas.shortlists import PIECES_PLAN, ShortlistSpec, check_pieces, shortlist_schema, shortlist_spec

SPEC = ShortlistSpec(
    queries="q.lance", queries_version=1, vectors="v.lance", vectors_version=2, space="s", dims=(8, 32), k=5
)


def test_a_schema_says_what_the_lists_hold() -> None:
    schema = shortlist_schema(SPEC)
    assert schema.names == ["query_id", "dim", "rank", "id", "score", "query_row", "row"]
    assert shortlist_spec(schema, "lists") == SPEC


def test_other_tables_are_refused() -> None:
    with pytest.raises(TableError, match="lists is not a shortlist table"):
        shortlist_spec(pa.schema([("id", pa.string())]), "lists")
    with pytest.raises(TableError, match="has no column 'score'"):
        shortlist_spec(shortlist_schema(SPEC).remove(4), "lists")
    with pytest.raises(TableError, match=r"is not valid JSON.*lists\.table"):
        shortlist_spec(shortlist_schema(SPEC).with_metadata({b"lake:shortlist": b"{"}), "lists")
    newer = {**(shortlist_schema(SPEC).metadata or {}), b"lake:format": b"7", b"lake:release": b"7"}
    with pytest.raises(TableError, match="needs matryoshka-lake 7 or newer"):
        shortlist_spec(shortlist_schema(SPEC).with_metadata(newer), "lists")


def test_the_plan_of_an_unfinished_table_is_one_row() -> None:
    rows = pa.Table.from_pylist([{"spec": SPEC.to_json(), "memory_bytes": 1}], PIECES_PLAN)
    check_pieces(rows, "parts")
    with pytest.raises(TableError, match="must have one row, not 0; delete that folder"):
        check_pieces(rows.slice(1), "parts")
    with pytest.raises(TableError, match="has no column 'spec'"):
        check_pieces(rows.drop_columns(["spec"]), "parts")
