"""A table holds each shard once, whoever lands it, and finds what is nearest."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.columns import Ladder, Space
from schemas.errors import DimNotInLadder, NotMatryoshka, SpaceMismatch, TableError, TableExists, TableNotFound
from tests.support.landing import (
    KEPT,
    LADDER,
    SPACE,
    a_shard,
    changed,
    contents,
    drive,
    embed,
    expected,
    land,
    new_table,
    race,
    vectors_of,
)


def test_nobody_sees_a_fragment_before_it_lands(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    result = embed(table, a_shard("a"))
    assert contents(table) == {}
    landing = table.commit([result], "test")
    assert (landing.shards, landing.rows, landing.rejects, landing.redo) == (1, 5, 0, ())
    assert contents(table) == expected(a_shard("a"))
    assert table.done_shards() == {a_shard("a").id}


def test_landing_twice_doubles_nothing(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    result = embed(table, a_shard("a"), rejects=2)
    table.commit([result], "test")
    again = table.commit([result], "test")
    assert (again.shards, again.rows, again.rejects) == (0, 0, 0)
    assert contents(table) == expected(a_shard("a"))
    assert table.companion("rejects").count_rows() == 2
    assert table.companion("shards").count_rows() == 1


def test_one_shard_twice_in_one_landing_comes_once(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    table.commit([embed(table, a_shard("a")), embed(table, a_shard("a"))], "test")
    assert contents(table) == expected(a_shard("a"))


def test_of_a_lease_that_another_run_has_landed_in_part_the_rest_is_to_be_done_again(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    result = embed(table, a_shard("a"), a_shard("b"))
    land(table, a_shard("a"))
    landing = table.commit([result], "late")
    assert landing.redo == (a_shard("b"),)
    assert contents(table) == expected(a_shard("a"))
    land(table, *landing.redo)
    assert contents(table) == expected(a_shard("a"), a_shard("b"))


def test_the_old_rows_of_a_replaced_shard_leave_in_the_commit_that_brings_the_new_ones(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    land(table, a_shard("a"), a_shard("b"), rejects=1)
    before = table.dataset.version
    new = changed(a_shard("a"))
    land(table, new, rows=3)
    assert contents(table) == expected(new, rows=3) | expected(a_shard("b"))
    assert table.dataset.version == before + 1
    assert contents(VectorTable.open(table.uri)) == contents(table)
    old = VectorTable.open(table.uri, before).dataset.to_table(columns=["shard"])
    assert set(old["shard"].to_pylist()) == {a_shard("a").id, a_shard("b").id}
    assert table.companion("rejects").to_table()["shard"].to_pylist() == [a_shard("b").id]


def test_a_shard_without_rows_is_done(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    land(table, a_shard("a"), rows=0, rejects=4)
    assert table.done_shards() == {a_shard("a").id}
    assert table.companion("rejects").count_rows() == 4


def test_a_shard_replaced_by_one_without_rows_leaves_none(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    land(table, a_shard("a"))
    land(table, changed(a_shard("a")), rows=0)
    assert contents(table) == {}
    assert table.done_shards() == {changed(a_shard("a")).id}


def test_a_shard_without_rows_is_not_done_while_older_rows_of_it_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    land(table, a_shard("a"))

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.tables.table.compare_and_swap", die)
        with pytest.raises(KeyboardInterrupt):
            land(table, changed(a_shard("a")), rows=0)
    assert changed(a_shard("a")).id not in table.refresh().done_shards()


def test_dying_between_the_records_and_the_commit_leaves_the_shard_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    land(table, a_shard("a"))

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    new = changed(a_shard("a"))
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.tables.table.compare_and_swap", die)
        with pytest.raises(KeyboardInterrupt):
            land(table, new, rejects=1)
    assert contents(table) == expected(a_shard("a"))
    assert new.id not in table.done_shards()
    land(table, new, rejects=1)
    assert contents(table) == expected(new)
    assert table.companion("rejects").count_rows() == 1


def test_a_shard_may_land_again_in_place_of_its_rows(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    land(table, a_shard("a"), rejects=2)
    table.commit([embed(table, a_shard("a"), rows=7)], "retry", replace=True)
    assert contents(table) == expected(a_shard("a"), rows=7)
    assert table.companion("rejects").count_rows() == 0


def test_processes_that_race_land_each_shard_once(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    old = [a_shard(f"s{i}") for i in range(12)]
    for start in range(0, 12, 4):
        land(table, *old[start : start + 4])
    shards = [changed(shard) for shard in old[:6]] + [a_shard(f"s{i}") for i in range(6, 24)]
    landed = race(3, drive, table.uri, shards, 1)
    assert contents(table) == expected(*shards)
    assert sum(landed) == 24 - 6  # six were there as they are
    table = table.refresh()
    assert table.done_shards() == {shard.id for shard in shards}
    rejects = table.companion("rejects").to_table()
    landed_here = [shard.id for shard in shards if shard not in old]
    assert sorted(rejects["shard"].to_pylist()) == sorted(landed_here)
    records = table.companion("shards").to_table()["shard"].to_pylist()
    assert len(records) == len(set(records))


def test_threads_that_land_the_same_shard_at_once_record_its_rejects_once(tmp_path: Path) -> None:
    uri = new_table(tmp_path).uri
    barrier = threading.Barrier(4)

    def land_all(number: int) -> int:
        table = VectorTable.open(uri)
        landed = 0
        for i in range(6):
            result = embed(table, a_shard(f"s{i}"), rejects=2)
            barrier.wait()
            landed += table.commit([result], f"driver{number}").shards
        return landed

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(land_all, range(4))) == 6
    table = VectorTable.open(uri)
    assert contents(table) == expected(*(a_shard(f"s{i}") for i in range(6)))
    assert table.companion("rejects").count_rows() == 12
    assert table.companion("shards").count_rows() == 6


def test_rows_keep_their_row_id_whatever_lands_and_however_it_is_compacted(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for name in "abcdef":
        land(table, a_shard(name))
    land(table, changed(a_shard("c")))

    def row_ids() -> dict[str, int]:
        rows = table.refresh().dataset.scanner(columns=["id"], with_row_id=True).to_table()
        return dict(zip(rows["id"].to_pylist(), rows["_rowid"].to_pylist(), strict=True))

    before = row_ids()
    assert len(set(before.values())) == 30
    table.refresh().dataset.optimize.compact_files()
    land(table, changed(a_shard("e")), rows=2)
    after = row_ids()
    kept = {key for key in before if "/e." not in key}
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert len(set(after.values())) == len(after)


def test_a_compaction_in_between_is_no_harm(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    shards = [a_shard(f"s{i}") for i in range(6)]
    for shard in shards:
        land(table, shard)
    result = embed(table, changed(shards[0]))
    table.refresh().dataset.optimize.compact_files()
    table.commit([result], "test")
    assert contents(table) == expected(changed(shards[0]), *shards[1:])


@settings(max_examples=8)
@given(st.data())
def test_whatever_is_landed_by_whom_the_last_content_of_each_shard_is_there_once(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        table = new_table(Path(folder))
        names = st.sampled_from("abcd")
        steps = data.draw(st.lists(st.tuples(names, st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
        state: dict[str, tuple[str, int]] = {}
        for name, rows, is_new in steps:
            etag = state.get(name, ("1", 0))[0] + ("'" if is_new else "")
            landing = land(table, a_shard(name, etag), rows=rows)
            # A shard that gave no rows is nowhere in the ledger of rows; landing it again is harmless.
            is_there = name in state and state[name][0] == etag and state[name][1] > 0
            assert landing.shards == (not is_there)
            if not is_there:
                state[name] = (etag, rows)
        wanted: dict[str, tuple[int, bytes]] = {}
        for name, (etag, rows) in state.items():
            wanted |= expected(a_shard(name, etag), rows=rows)
        assert contents(table) == wanted
        assert table.refresh().done_shards() >= {a_shard(name, etag).id for name, (etag, _) in state.items()}


def test_of_racing_creators_one_succeeds(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def create(name: str) -> bool:
        barrier.wait()
        try:
            table = new_table(tmp_path, name)
        except TableExists:
            return False
        land(table, a_shard("a"))  # whoever comes later must not take it away
        return True

    with ThreadPoolExecutor(4) as pool:
        for number in range(10):
            assert sorted(pool.map(create, [f"t{number}"] * 4)) == [False, False, False, True]
            assert contents(VectorTable.open(str(tmp_path / f"t{number}.lance"))) == expected(a_shard("a"))


def test_an_address_without_a_table_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(TableNotFound, match=r"nothing\.lance; `python -m jobs embed CONFIG` makes one"):
        VectorTable.open(str(tmp_path / "nothing.lance"))
    table = new_table(tmp_path)
    with pytest.raises(TableNotFound, match="at version 99"):
        VectorTable.open(table.uri, 99)
    with pytest.raises(TableNotFound, match="at version 'prod'"):
        VectorTable.open(table.uri, "prod")


def test_a_table_that_was_not_made_here_is_refused(tmp_path: Path) -> None:
    lancedb.connect(tmp_path).create_table("other", pa.table({"id": ["a"]}))
    with pytest.raises(TableError, match="does not say what space"):
        VectorTable.open(str(tmp_path / "other.lance"))


def test_another_space_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    table.check_space(SPACE)
    with pytest.raises(SpaceMismatch, match="revision: table 'test', asked '2'"):
        table.check_space(SPACE.model_copy(update={"revision": "2"}))


def test_a_stream_that_fails_is_raised_as_it_is(tmp_path: Path) -> None:
    table = new_table(tmp_path)

    def broken() -> pa.RecordBatch:
        raise TableError("of my own")
        yield

    with pytest.raises(TableError, match="of my own"):
        table.write_fragments(broken())


def test_a_table_that_has_a_prefix_column_gets_it_for_new_rows_too(tmp_path: Path) -> None:
    from pipelines.shortlist import add_prefixes

    table = new_table(tmp_path)
    land(table, a_shard("a"))
    table = add_prefixes(table, [8])
    land(table, a_shard("b"))
    rows = table.refresh().dataset.to_table()
    assert np.array_equal(to_numpy(rows["vector_8"]), cut(to_numpy(rows["vector"]), 8))


def brute_force(table: VectorTable, query_D: np.ndarray, dims: int, k: int, where: str | None = None) -> list[str]:
    rows = table.dataset.to_table(filter=where)
    scores = cut(to_numpy(rows["vector"]).astype(np.float32), dims) @ cut(query_D.astype(np.float32), dims)
    best = sorted(zip(-scores, rows["id"].to_pylist(), strict=True))[:k]
    return [key for _, key in best]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    from pipelines.shortlist import add_prefixes

    table = new_table(tmp_path_factory.mktemp("searched"))
    for name in "abc":
        land(table, a_shard(name), rows=150)
    table = add_prefixes(table, [8])
    land(table, changed(a_shard("b")), rows=100)
    return table.refresh()


@pytest.mark.parametrize("where", [None, "half = 'odd' AND n > 20"])
@pytest.mark.parametrize("dims", [8, 16, 32], ids=["prefix column", "prefix without column", "full width"])
def test_search_finds_what_brute_force_finds(searched: VectorTable, dims: int, where: str | None) -> None:
    for seed in range(5):
        query_D = np.random.default_rng(seed).standard_normal(32).astype(np.float32)
        found = searched.search(query_D, k=10, dims=dims, where=where)
        assert found.column_names == ["id", "n", "half", "score"]
        assert found["id"].to_pylist() == brute_force(searched, query_D, dims, 10, where)
        scores = found["score"].to_pylist()
        assert scores == sorted(scores, reverse=True)
        assert all(-1.001 <= score <= 1.001 for score in scores)


@pytest.mark.parametrize("dims", [8, 16, 32])
def test_search_gives_the_columns_asked_for_and_survives_a_filter_that_leaves_nothing(
    searched: VectorTable, dims: int
) -> None:
    query_D = vectors_of(a_shard("a"), 150)[7]
    best = searched.search(query_D, k=1, dims=dims, columns=["n"])
    assert best.column_names == ["n", "score"]
    assert best["n"].to_pylist() == [7]
    assert best["score"][0].as_py() == pytest.approx(1.0, abs=2e-3)
    assert searched.search(query_D, k=3, dims=dims, where="n > 1000").num_rows == 0


def test_search_of_a_table_without_rows_finds_none(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for dims in LADDER:
        assert table.search(np.ones(32), dims=dims).num_rows == 0


def test_search_refuses_what_means_nothing(searched: VectorTable, tmp_path: Path) -> None:
    with pytest.raises(DimNotInLadder, match="dim 12 is not in the ladder"):
        searched.search(np.ones(32), dims=12)
    with pytest.raises(SpaceMismatch, match=r"shape \(16,\)"):
        searched.search(np.ones(16))
    flat = new_table(tmp_path, "flat", Space(encoder="x", revision="1", ladder=Ladder(dims=(32,))))
    with pytest.raises(NotMatryoshka, match="not Matryoshka-trained"):
        flat.search(np.ones(32), dims=16)


def test_lancedb_searches_the_table(searched: VectorTable) -> None:
    path = Path(searched.uri)
    query_D = np.random.default_rng(3).standard_normal(32).astype(np.float32)
    found = lancedb.connect(path.parent).open_table(path.stem).search(query_D).metric("cosine").limit(5).to_arrow()
    assert found["id"].to_pylist() == brute_force(searched, query_D, 32, 5)


def test_vectors_go_to_arrow_and_back(tmp_path: Path) -> None:
    x = vectors_of(a_shard("a"), 6)
    column = to_arrow(x)
    assert np.array_equal(to_numpy(column), x)
    assert np.array_equal(to_numpy(column.slice(2, 3)), x[2:5])
    assert np.array_equal(to_numpy(pa.chunked_array([column[:2], column[2:]])), x)
    assert new_table(tmp_path).kept == KEPT
