"""Open, describe and search a table, without loading torch or an encoder."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from pipelines.tables.prefixes import add_prefixes
from pipelines.tables.queries import unit_query
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import cut, unit
from schemas.columns import Ladder, Space
from schemas.errors import (
    DimNotInLadder,
    InputError,
    NotMatryoshka,
    SpaceMismatch,
    TableError,
    TableExists,
    TableNotFound,
)
from tests.support.small_tables import (
    KEPT,
    LADDER,
    SPACE,
    a_shard,
    changed,
    commit_shards,
    contents,
    expected,
    new_table,
    vectors_of,
)

_OPEN_AND_SEARCH = """
import sys
import numpy as np
from pipelines.tables.table import VectorTable
table = VectorTable.open(sys.argv[1])
for dim in (8, 16, 32):
    assert table.search(np.ones(32, np.float32), k=3, dim=dim, where="n >= 0").num_rows == 3
loaded = [name for name in ("torch", "pipelines.encoders", "transformers", "faiss", "ray") if name in sys.modules]
assert not loaded, loaded
"""


def test_opening_a_table_and_searching_it_by_a_vector_loads_neither_torch_nor_an_encoder(searched: VectorTable) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OPEN_AND_SEARCH, searched.uri], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_table_describes_itself(searched: VectorTable) -> None:
    assert searched.kept == KEPT
    assert searched.prefix_dims == (8,)
    assert searched.rotation is None
    assert searched.companion("shards").count_rows() == 4


def test_of_racing_creators_one_succeeds(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def create(name: str) -> bool:
        barrier.wait()
        try:
            table = new_table(tmp_path, name)
        except TableExists:
            return False
        commit_shards(table, a_shard("a"))  # a later creator must not remove it
        return True

    with ThreadPoolExecutor(4) as pool:
        for number in range(10):
            assert sorted(pool.map(create, [f"t{number}"] * 4)) == [False, False, False, True]
            assert contents(VectorTable.open(str(tmp_path / f"t{number}.lance"))) == expected(a_shard("a"))


def test_an_address_or_version_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableNotFound, match=r"nothing\.lance; `mlake embed CONFIG` makes one"):
        VectorTable.open(str(tmp_path / "nothing.lance"))
    table = new_table(tmp_path)
    with pytest.raises(TableNotFound, match="has no version 99; its newest is 1"):
        VectorTable.open(table.uri, 99)
    with pytest.raises(TableNotFound, match="has no version 'prod'; its newest is 1; nothing is published there"):
        VectorTable.open(table.uri, "prod")
    assert VectorTable.open(Path(table.uri), 1).dataset.version == 1


def test_a_foreign_table_is_refused(tmp_path: Path) -> None:
    lancedb.connect(tmp_path).create_table("other", pa.table({"id": ["a"]}))
    with pytest.raises(TableError, match="does not say what space"):
        VectorTable.open(str(tmp_path / "other.lance"))


def test_another_space_is_refused_and_the_differing_setting_named(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    table.check_space(SPACE)
    with pytest.raises(SpaceMismatch, match="revision: table 'test', asked '2'"):
        table.check_space(SPACE.model_copy(update={"revision": "2"}))


def brute_force(table: VectorTable, query_D: np.ndarray, dims: int, k: int, where: str | None = None) -> list[str]:
    rows = table.dataset.to_table(filter=where)
    scores = cut(to_numpy(rows["vector"]).astype(np.float32), dims) @ cut(query_D.astype(np.float32), dims)
    best = sorted(zip(-scores, rows["id"].to_pylist(), strict=True))[:k]
    return [key for _, key in best]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    table = new_table(tmp_path_factory.mktemp("searched"))
    for name in "abc":
        commit_shards(table, a_shard(name), rows=150)
    table = add_prefixes(table, [8])
    commit_shards(table, changed(a_shard("b")), rows=100)
    return table.refresh()


@pytest.mark.parametrize("where", [None, "half = 'odd' AND n > 20"])
@pytest.mark.parametrize("dims", [8, 16, 32], ids=["prefix column", "prefix without column", "full width"])
def test_search_finds_what_brute_force_finds(searched: VectorTable, dims: int, where: str | None) -> None:
    for seed in range(5):
        query_D = np.random.default_rng(seed).standard_normal(32).astype(np.float32)
        found = searched.search(query_D, k=10, dim=dims, where=where)
        assert found.column_names == ["id", "n", "half", "score"]
        assert found["id"].to_pylist() == brute_force(searched, query_D, dims, 10, where)
        scores = found["score"].to_pylist()
        assert scores == sorted(scores, reverse=True)
        assert all(-1.001 <= score <= 1.001 for score in scores)


@pytest.mark.parametrize("dims", [8, 16, 32])
def test_search_returns_the_columns_asked_for_and_nothing_if_the_filter_leaves_nothing(
    searched: VectorTable, dims: int
) -> None:
    query_D = vectors_of(a_shard("a"), 150)[7]
    best = searched.search(query_D, k=1, dim=dims, columns=["n"])
    assert best.column_names == ["n", "score"]
    assert best["n"].to_pylist() == [7]
    assert best["score"][0].as_py() == pytest.approx(1.0, abs=2e-3)
    assert searched.search(query_D, k=3, dim=dims, where="n > 1000").num_rows == 0


def test_a_search_works_beside_columns_that_have_its_own_names(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    table.refresh().dataset.add_columns({"score": "cast(7 as bigint)", "_distance": "cast(8 as float)", "query": "'q'"})
    table = table.refresh()
    found = table.search(vectors_of(a_shard("a"), 5)[0].astype(np.float32), 2)
    assert found.column_names == ["id", *KEPT.names, "score"]
    assert found["score"].to_pylist()[0] == pytest.approx(1, abs=1e-2)
    assert table.search(np.eye(32)[:2], 1)["query"].to_pylist() == [0, 1]
    assert table.head(2, columns=["score", "query"]).to_pylist() == [{"score": 7, "query": "q"}] * 2
    for name in ("score", "query", "_distance"):
        with pytest.raises(TableError, match=f"'{name}' cannot be asked for: a search uses that name itself"):
            table.search(np.eye(32)[:2], columns=[name])
        with pytest.raises(TableError, match=f"group_by='{name}'"):
            table.search(np.eye(32)[:2], group_by=name)


def test_search_of_a_table_without_rows_finds_none(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for dims in LADDER:
        assert table.search(np.ones(32), dim=dims).num_rows == 0


def test_search_refuses_untrained_dims_and_queries_of_another_width(searched: VectorTable, tmp_path: Path) -> None:
    with pytest.raises(DimNotInLadder, match="dim 12 is not in the ladder"):
        searched.search(np.ones(32), dim=12)
    with pytest.raises(SpaceMismatch, match=r"shape \(12,\)"):
        searched.search(np.ones(12))
    flat = new_table(tmp_path, "flat", Space(encoder="x", revision="1", ladder=Ladder(dims=(32,))))
    with pytest.raises(NotMatryoshka, match="not Matryoshka-trained"):
        flat.search(np.ones(32), dim=16)


def test_a_vector_as_wide_as_a_rung_is_searched_at_its_dims(searched: VectorTable) -> None:
    query_D = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    for dims in LADDER:
        short, cut_here = searched.search(list(map(float, query_D[:dims]))), searched.search(query_D, dim=dims)
        assert short["id"] == cut_here["id"]
        assert short["score"].to_pylist() == pytest.approx(cut_here["score"].to_pylist(), abs=1e-6)
    with pytest.raises(SpaceMismatch, match="dim=16, and the query has 8 dims"):
        searched.search(query_D[:8], dim=16)
    with pytest.raises(InputError, match="searched at 8 and 32 dims; pass dim=8 for all of them"):
        searched.search(["words", query_D[:8]])
    for dim in (16.0, "16", True, [16]):
        with pytest.raises(DimNotInLadder, match=r"is no whole number; allowed in .*: 8, 16, 32"):
            searched.search(query_D, dim=dim)
    assert searched.search(query_D, dim=np.int8(16)) == searched.search(query_D, dim=16)  # type: ignore[arg-type]


@pytest.mark.parametrize("dims", [8, 16, 32])
def test_a_filter_that_fails_on_the_rows_is_refused_in_words(searched: VectorTable, dims: int) -> None:
    for where, said in (("n / 0 = 1", "Arrow error: Divide by zero"), ("cast(half AS int) = 1", "Cannot cast string")):
        with pytest.raises(TableError, match=f"the filter .* cannot be used on .*: .*{said}.*; write SQL"):
            searched.search(np.ones(32), dim=dims, where=where)


def test_the_last_row_is_the_first_by_id_of_those_that_tie(make_table: Callable[..., VectorTable]) -> None:
    rng = np.random.default_rng(0)
    row = rng.standard_normal(32).astype(np.float32)
    near = row + 2e-4 * rng.standard_normal((300, 32)).astype(np.float32)
    table = make_table(unit(np.concatenate([np.repeat(row[None], 700, 0), near])).astype(np.float16))
    rows = table.dataset.to_table()
    for k in (1, 5, 37, 400, 1000):
        for query_D in (row, -row, *near[:3]):
            found = table.search(query_D, k)
            scores = np.einsum("nd,d->n", cut(to_numpy(rows["vector"]).astype(np.float32), 32), unit_query(query_D))
            best = sorted(zip(-scores, rows["id"].to_pylist(), strict=True))[:k]
            assert found["id"].to_pylist() == [key for _, key in best]


def test_more_rows_than_there_are_is_all_of_them(searched: VectorTable) -> None:
    for k in (401, 2**62, 10**20):
        assert [searched.search(np.ones(32), k, group_by=group).num_rows for group in (None, "id")] == [400, 400]
        assert searched.head(k).num_rows == 400
    assert searched.head(0).num_rows == 0


@pytest.mark.parametrize("dims", [8, 16, 32])
def test_several_queries_are_answered_as_one_by_one(searched: VectorTable, dims: int) -> None:
    query_BD = np.random.default_rng(2).standard_normal((3, 32)).astype(np.float32)
    together = searched.search(query_BD, k=4, dim=dims)
    assert together.column_names == ["query", "id", "n", "half", "score"]
    assert together["query"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 4
    assert searched.search((query_D for query_D in query_BD), k=4, dim=dims) == together
    alone = [key for query_D in query_BD for key in searched.search(query_D, k=4, dim=dims)["id"].to_pylist()]
    assert together["id"].to_pylist() == alone


@pytest.mark.parametrize("dims", [8, 16, 32])
def test_like_returns_the_rows_nearest_to_a_row_without_itself(searched: VectorTable, dims: int) -> None:
    one = f"{a_shard('a').uri}-7"
    vector_D = vectors_of(a_shard("a"), 150)[7].astype(np.float32)
    found = searched.search(like=one, k=5, dim=dims)
    assert found == searched.search(vector_D, k=5, dim=dims, where=f"id != '{one}'")
    assert found.title == f"t.lance: most like the row {one!r}"
    for wrong in ({"query": vector_D, "like": one}, {}):
        with pytest.raises(InputError, match="either a query or like=ID"):
            searched.search(**wrong)
    with pytest.raises(TableError, match=r'no row .* has the id "no\'one"'):
        searched.search(like="no'one")


@pytest.mark.parametrize("dims", [8, 16, 32])
def test_group_by_returns_the_best_row_of_each_group(searched: VectorTable, dims: int) -> None:
    query_D = np.random.default_rng(4).standard_normal(32).astype(np.float32)
    rows = searched.dataset.to_table()
    of = dict(zip(rows["id"].to_pylist(), rows["n"].to_pylist(), strict=True))
    best = dict[int, str]()
    for key in searched.search(query_D, k=400, dim=dims)["id"].to_pylist():
        best.setdefault(of[key], key)
    found = searched.search(query_D, k=100, dim=dims, group_by="n", columns=["id"])
    assert found.column_names == ["id", "score"]
    assert found["id"].to_pylist() == list(best.values())[:100]
    assert searched.search(query_D, k=10, dim=dims, group_by="half").num_rows == 2
    with pytest.raises(TableError, match="group_by='vector'"):
        searched.search(query_D, group_by="vector")


def test_equal_vectors_are_returned_once_where_asked(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rows=30)
    table = table.refresh()
    copies = table.dataset.to_table().set_column(0, "id", pa.array([f"copy {i}" for i in range(30)]))
    for _ in range(3):
        table.dataset.insert(copies)
    table = table.refresh()
    query_D = vectors_of(a_shard("a"), 30)[3].astype(np.float32)
    assert table.search(query_D, k=4)["id"].to_pylist() == ["/src/a.jsonl-3", *["copy 3"] * 3]
    assert table.search(query_D, k=30, distinct=True)["id"].to_pylist() == brute_force(table, query_D, 32, 120)[::4]
    assert table.search(like="/src/a.jsonl-3", k=1)["id"].to_pylist() == ["copy 3"]
    with pytest.raises(TableError, match=r"3 rows .* have the id 'copy 3'"):
        table.search(like="copy 3")


def test_a_table_shows_its_rows_its_columns_and_itself(searched: VectorTable) -> None:
    assert len(searched) == 400
    assert bool(new_table(Path(searched.uri).parent, "empty"))
    assert searched.columns == [*searched.schema.names] == ["id", "shard", "n", "half", "vector", "vector_8"]
    head = searched.head(3)
    assert head.column_names == ["id", "n", "half"]
    assert head.title == "t.lance: the first 3 of 400 rows"
    for shown in repr(searched), searched._repr_html_():
        for part in (searched.uri, "400", "wordllama", "8, 16, 32", "8 of 32 dims", "n (int64), half (string)"):
            assert part in shown


def test_a_table_opens_at_a_time(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    between = dt.datetime.now(dt.UTC)
    commit_shards(table, a_shard("b"))
    assert [len(VectorTable.open(table.uri, when)) for when in (between, None)] == [5, 10]
    with pytest.raises(TableNotFound, match=r"has no version of 2.*; its oldest is of 2"):
        VectorTable.open(table.uri, between - dt.timedelta(days=1))


def test_lancedb_searches_the_table(searched: VectorTable) -> None:
    path = Path(searched.uri)
    query_D = np.random.default_rng(3).standard_normal(32).astype(np.float32)
    found = lancedb.connect(path.parent).open_table(path.stem).search(query_D).metric("cosine").limit(5).to_arrow()
    assert found["id"].to_pylist() == brute_force(searched, query_D, 32, 5)


def test_the_full_width_is_exact_though_another_tool_has_indexed_it(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for number in range(4):
        commit_shards(table, a_shard(str(number)), rows=400)
    table.refresh().dataset.create_index("vector", "IVF_PQ", metric="cosine", num_partitions=64, num_sub_vectors=1)
    table = table.refresh()
    x_ND = to_numpy(table.dataset.to_table()["vector"]).astype(np.float32)
    for seed in range(5):
        query_D = np.random.default_rng(seed).standard_normal(32).astype(np.float32)
        best = np.sort(x_ND @ (query_D / np.linalg.norm(query_D)))[::-1][:50]
        assert table.search(query_D, k=50)["score"].to_numpy() == pytest.approx(best, abs=2e-3)
