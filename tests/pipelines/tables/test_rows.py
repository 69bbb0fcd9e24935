"""Rows are read by their ids, in the order asked for, or scanned once each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipelines.tables.compaction_commits import compact
from pipelines.tables.rows import (
    MADE,
    check_columns,
    check_filter,
    find_shared_id,
    places_of,
    read_rows,
    read_vectors,
    row_ids,
    scan_small_batches,
    scan_vectors,
)
from pipelines.tables.table import VectorTable
from schemas.errors import TableError
from tests.support.small_tables import a_shard, commit_shards, new_table, vectors_of


@pytest.fixture
def table(tmp_path: Path) -> VectorTable:
    """Two fragments of 7 rows each, of which three are deleted."""
    made = new_table(tmp_path)
    for name in "ab":
        commit_shards(made, a_shard(name), rows=7)
    made = made.refresh()
    made.dataset.delete("n >= 5 AND half = 'odd'")
    made.dataset.delete("id = '/src/a.jsonl-0'")
    return made.refresh()


def test_rows_come_by_their_ids_in_the_order_asked_for(table: VectorTable) -> None:
    rows = table.dataset.to_table(columns=["id"], with_row_id=True)
    drawn = np.random.default_rng(0).permutation(row_ids(rows))[:6]
    compact(table.uri, table.storage)
    for dataset in (table.dataset, table.refresh().dataset):
        found = read_rows(dataset, drawn, ["id", "n"])
        assert found.column_names == ["id", "n", "_rowid"]
        ids = found.take(places_of(found, drawn))["id"].to_pylist()
        assert ids == [rows["id"].to_pylist()[place] for place in places_of(rows, drawn)]
        wanted = [vectors_of(a_shard(key.split("/")[2][0]), 7)[int(key.rpartition("-")[2])] for key in ids]
        np.testing.assert_array_equal(read_vectors(dataset, drawn), wanted)
    twice = np.array([drawn[2], drawn[0], drawn[2]])
    np.testing.assert_array_equal(read_vectors(table.dataset, twice)[0], read_vectors(table.dataset, twice)[2])


def test_no_ids_give_no_rows(table: VectorTable) -> None:
    assert read_rows(table.dataset, np.empty(0, np.int64), ["id"]).num_rows == 0


@pytest.mark.parametrize("where", [None, "n < 3"])
def test_a_scan_yields_every_row_once(table: VectorTable, where: str | None) -> None:
    wanted = table.dataset.to_table(columns=["id"], filter=where)["id"].to_pylist()
    scanned = [key for batch, x_BD in scan_vectors(table.dataset, ["id"], where, 4) for key in batch["id"].to_pylist()]
    assert scanned == wanted
    batches = list(scan_small_batches(table.dataset, ["id"], 2, where=where))
    assert [key for batch in batches for key in batch["id"].to_pylist()] == wanted
    assert max(batch.num_rows for batch in batches) <= 2
    second = table.dataset.get_fragments()[1].fragment_id
    of_second = list(scan_small_batches(table.dataset, ["id"], 2, fragments=[second], where=where))
    assert all(key.startswith("/src/b") for batch in of_second for key in batch["id"].to_pylist())
    assert sum(batch.num_rows for batch in of_second) < len(wanted)


@pytest.mark.parametrize(
    "where",
    [
        None,
        "n = 1",
        "half = 'a;b'",
        "n IN (1, 2) AND NOT half IS NULL",
        "_rowid > 3",
        "half = ')' OR (n = 1) -- (",
        "/* ) */ n::int = 1 AND\nhalf != '?:x$1'",
        "(n = 1) OR ((n = 2))",
    ],
)
def test_sql_over_the_columns_is_a_filter(table: VectorTable, where: str | None) -> None:
    check_filter(table.dataset, where, table.uri)


@pytest.mark.parametrize(
    "where",
    ["", " ", "n", "n + 1", "1", "nope = 1", "id = 'x", "n = 'x'", "n in (", "n = 1; n = 2", "(" * 500, "\0", "[/]"],
)
def test_what_is_no_filter_is_refused_with_the_columns(table: VectorTable, where: str) -> None:
    with pytest.raises(TableError, match=r"the filter .* cannot be used on .*; they are: id, shard, n") as refused:
        check_filter(table.dataset, where, table.uri)
    assert ".rs:" not in str(refused.value)


@pytest.mark.parametrize(
    "where",
    [
        "\"titel\" != 'x'",
        "n = 1 OR \"meta.x\" NOT IN ('x')",
        '"nr" IS NOT NULL',
        "\"id\" = 'x'",
        'n = 1 AND "Shard" != 3',
        "id = 'it''s' OR \"vector\" = 1",
        "lower(\"titel\") != 'x'",
        "id = 'x' -- it's\n OR \"n\" = 1",
        'id = "x"',
        'id BETWEEN "a" AND "z"',
    ],
)
def test_double_quotes_are_refused_for_lance_takes_what_is_in_them_for_a_text(table: VectorTable, where: str) -> None:
    with pytest.raises(TableError, match="in double quotes, which is a text here and not a column; write "):
        check_filter(table.dataset, where, table.uri)
    for same in ("id = 'say \"id\"'", "`id` = 'x'", "id = '\"\"'", "id = 'x' /* or \"n\" */", "id = 'x' -- \"n\""):
        check_filter(table.dataset, same, table.uri)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("n = 1 n = 2", "more follows"),
        ("n = 1, n = 2", "more follows"),
        ("n = 1 ANDD half = 'odd'", "more follows"),
        ("n = 1) OR (n = 2", "more follows"),
        ("n = 1)", "more follows"),
        ("n = 1 LIMIT 1", "more follows"),
        ("n = 1 GROUP BY n", "more follows"),
        ("half = 'a' 'b'", "more follows"),
        ("n = 1\0", "more follows"),
        ("n = ?", "'.' stands for a value that is not given"),
        ("n = $1", "'.1' stands for a value"),
        ("n = :n", "':n' stands for a value"),
        ("half = N'x'", "it is SQL that Lance cannot evaluate"),
    ],
)
def test_a_filter_that_lance_would_read_in_part_or_not_at_all_is_refused(
    table: VectorTable, where: str, said: str
) -> None:
    with pytest.raises(TableError, match=f"cannot be used on .*: {said}"):
        check_filter(table.dataset, where, table.uri)


def test_a_value_of_another_type_is_refused_with_what_to_write(table: VectorTable) -> None:
    with pytest.raises(TableError, match=r"a text in single quotes, or convert it, as in cast.COLUMN as int. < 10"):
        check_filter(table.dataset, "id < 10", table.uri)
    check_filter(table.dataset, "cast(n as string) = '10'", table.uri)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["id", "score"], "a search uses that name itself"),
        (["query"], "a search uses that name itself"),
        ([None], "None is no name, but of type NoneType"),
        (b"id", "105 is no name"),
        (3, "pass a list of names, such as columns="),
        ("id", "pass a list of names, such as columns="),
        (["halff"], "has no column 'halff'; did you mean 'half'"),
        (["n", "id", "n"], "'n' is named twice"),
        ([""], "has no column ''"),
    ],
)
def test_columns_that_a_search_cannot_return_are_refused(table: VectorTable, columns: Any, said: str) -> None:
    with pytest.raises(TableError, match=said):
        check_columns(table.dataset, columns, table.uri, MADE)


def test_names_of_columns_come_in_any_container(table: VectorTable) -> None:
    assert check_columns(table.dataset, None, table.uri) is None
    for names in (iter(["n", "id"]), np.array(["n", "id"]), pa.array(["n", "id"]), pd.Index(["n", "id"])):
        assert check_columns(table.dataset, names, table.uri) == ["n", "id"]


def test_an_id_that_several_shards_have_is_found(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    assert find_shared_id(table.dataset) is None
    commit_shards(table, a_shard("a"), a_shard("b"))
    commit_shards(table, a_shard("c"))
    assert find_shared_id(table.refresh().dataset) is None
    table.refresh().dataset.update({"id": "'000'"}, where="n = 3")
    assert find_shared_id(table.refresh().dataset) == ("000", 3)
