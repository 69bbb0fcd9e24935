"""Funnels over real Lance tables: what they find, what they must never return, what they remember."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pipelines.funnel import Funnel, Goal, adaptive_retrieval, funnel_retrieval
from pipelines.funnel.memory import MemoryIndex
from pipelines.funnel.slices import useful_slices
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import cut, unit
from schemas.columns import Ladder, Space, prefix_column, vector_field
from schemas.errors import ConfigError, LakeError, TableError
from schemas.plans import FunnelStage, Home, Plan

WIDTH, ROWS = 64, 6_000
SPACE = Space(encoder="brought", revision="1", ladder=Ladder(dims=(16, 32, 64)))
GOAL = Goal(recall=0.9, queries=400)


def vectors(rows: int, seed: int = 0) -> npt.NDArray[np.float16]:
    """Rows around 40 centres, with the falling spectrum that Matryoshka training leaves."""
    centres = np.random.default_rng(99).standard_normal((40, WIDTH))
    rng = np.random.default_rng(seed)
    spread = np.arange(1, WIDTH + 1) ** -0.5
    x = (centres[rng.integers(0, 40, rows)] + rng.standard_normal((rows, WIDTH))) * spread
    return unit(x.astype(np.float32)).astype(np.float16)


def batch(x_BD: npt.NDArray[np.float16], first: int, schema: pa.Schema) -> pa.Table:
    """Rows named after their number."""
    numbers = np.arange(first, first + len(x_BD))
    columns = {
        "id": [f"r{n}" for n in numbers],
        "shard": numbers % 7,
        "parity": numbers % 2,
        "vector": to_arrow(x_BD),
        **{prefix_column(d): to_arrow(cut(x_BD, d)) for d in (16,) if prefix_column(d) in schema.names},
    }
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table that holds both funnels."""
    folder = tmp_path_factory.mktemp("tuned")
    made = VectorTable.create(str(folder / "t.lance"), SPACE, pa.schema([pa.field("parity", pa.int64())]))
    x_ND = vectors(ROWS)
    dataset = lance.write_dataset(batch(x_ND, 0, made.dataset.schema), made.uri, mode="append")
    prefix = pa.table([to_arrow(cut(x_ND, 16))], schema=pa.schema([vector_field(16, prefix_column(16))]))
    dataset.add_columns(prefix.to_reader())
    for home in get_args(Home):
        Funnel.build(made.refresh(), GOAL, home=home)
    return folder


@pytest.fixture
def table(tuned: Path, tmp_path: Path) -> VectorTable:
    """A copy of the table, to do with as one likes."""
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    return VectorTable.open(str(tmp_path / "t.lance"))


@pytest.fixture(params=["memory", "torch", "codes", "lake"])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How to open a funnel."""
    return {"device": "cpu"} if request.param == "torch" else {"home": request.param}


@pytest.fixture
def funnel(table: VectorTable, how: dict[str, Any]) -> Funnel:
    return Funnel.open(table, **how)


@pytest.fixture(params=[1, 3], ids=["one slice", "three slices"])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many slices funnels in memory have from now on."""
    monkeypatch.setattr("pipelines.funnel.slices.slice_count", lambda rows, width: request.param)
    return int(request.param)


def query(seed: int = 7) -> npt.NDArray[np.float32]:
    return unit(vectors(1, seed)[0].astype(np.float32))


def ids(found: pa.Table) -> list[str]:
    names: list[str] = found["id"].to_pylist()
    return names


def test_scores_are_the_tables_own_cosines(funnel: Funnel, table: VectorTable) -> None:
    found, exact = funnel.search(query(), k=5), table.search(query(), k=ROWS)
    true = dict(zip(ids(exact), exact["score"].to_pylist(), strict=True))
    assert found["score"].to_pylist() == pytest.approx([true[i] for i in ids(found)], abs=1e-6)
    assert found["score"].to_pylist() == sorted(found["score"].to_pylist(), reverse=True)


def test_recall_on_fresh_queries_is_within_the_cards_interval(funnel: Funnel, table: VectorTable) -> None:
    fresh = vectors(300, seed=5).astype(np.float32)
    x_ND = unit(vectors(ROWS).astype(np.float32))
    _, rows = funnel.nearest(unit(fresh), k=10)
    exact = np.argsort(-(unit(fresh) @ x_ND.T), axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), exact.tolist(), strict=True)])
    assert funnel.card.best.low >= GOAL.recall
    assert funnel.card.best.low - 0.02 <= recall


def test_a_filter_is_a_prefilter(funnel: Funnel) -> None:
    found = funnel.search(query(), k=12, where="id IN ('r5', 'r17', 'r4000')")
    assert sorted(ids(found)) == ["r17", "r4000", "r5"]
    assert len(funnel.search(query(), k=50, where="parity = 1")) == 50
    assert all(int(i[1:]) % 2 for i in ids(funnel.search(query(), k=50, where="parity = 1")))


def test_deleted_rows_never_appear(funnel: Funnel, table: VectorTable) -> None:
    gone = ids(funnel.search(query(), k=30))
    table.refresh().dataset.delete(f"id IN ({', '.join(map(repr, gone))})")
    left = funnel.search(query(), k=30)
    assert not set(ids(left)) & set(gone)
    assert len(left) == 30


def test_appended_rows_are_found(funnel: Funnel, table: VectorTable) -> None:
    near = np.repeat(query()[None], 3, axis=0).astype(np.float16)
    lance.write_dataset(batch(near, ROWS, table.dataset.schema), table.uri, mode="append")
    assert sorted(ids(funnel.search(query(), k=3))) == ["r6000", "r6001", "r6002"]
    assert ids(funnel.search(query(), k=1, where="parity = 1")) == ["r6001"]


def test_rewritten_rows_are_found_where_they_are_now(funnel: Funnel, table: VectorTable) -> None:
    best = ids(funnel.search(query(), k=1))[0]
    schema = table.dataset.schema
    moved = batch(-query()[None].astype(np.float16), int(best[1:]), schema)
    table.refresh().dataset.merge_insert("id").when_matched_update_all().execute(moved)
    assert best not in ids(funnel.search(query(), k=20))
    assert ids(funnel.search(-query(), k=1)) == [best]


def test_a_restored_version_is_seen_as_it_was(funnel: Funnel, table: VectorTable) -> None:
    before = funnel.search(query(), k=10)
    old = table.refresh().dataset.version
    table.refresh().dataset.delete("id IN ('" + "', '".join(ids(before)) + "')")
    assert not set(ids(funnel.search(query(), k=10))) & set(ids(before))
    lance.dataset(table.uri, version=old).restore()  # type: ignore[no-untyped-call]
    assert funnel.search(query(), k=10).equals(before)


def test_plan_and_card_survive_in_the_table(funnel: Funnel, table: VectorTable, how: dict[str, Any]) -> None:
    again = Funnel.open(table.uri, **how)
    assert again.plan == funnel.plan
    assert again.card == funnel.card
    assert again.search(query(), k=5).equals(funnel.search(query(), k=5))


def test_a_batch_answers_as_its_queries_do_one_by_one(funnel: Funnel) -> None:
    many = np.stack([query(seed) for seed in range(5)])
    together = funnel.search(many, k=4)
    assert together["query"].to_pylist() == [q for q in range(5) for _ in range(4)]
    alone = [ids(funnel.search(one, k=4)) for one in many]
    assert ids(together) == [i for found in alone for i in found]


def test_many_filtered_queries_are_answered_a_few_at_a_time(
    table: VectorTable, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    funnel, many = Funnel.open(table, **how), np.stack([query(seed) for seed in range(9)])
    whole = funnel.search(many, k=4, where="parity = 1")
    if isinstance(funnel._index, MemoryIndex):
        funnel._index._max_held = 200
    parts = funnel.search(many, k=4, where="parity = 1")
    assert ids(parts) == ids(whole)
    assert parts["score"].to_pylist() == pytest.approx(whole["score"].to_pylist(), abs=1e-6)


def test_threads_may_search_while_the_table_changes(funnel: Funnel, table: VectorTable) -> None:
    def ask(seed: int) -> int:
        if seed == 3:
            table.refresh().dataset.delete("parity = 0 AND shard < 3")
        return len(funnel.search(query(seed), k=10))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(16))) == [10] * 16


def test_another_recall_takes_more_candidates(table: VectorTable) -> None:
    funnel = Funnel.build(table, Goal(recall=0.6, queries=1_000))
    assert funnel.search(query(), k=10, recall=0.7).num_rows == 10
    with pytest.raises(ConfigError, match="vouches for"):
        funnel.search(query(), k=10, recall=0.99999)


def test_what_is_missing_is_said_with_its_remedy(table: VectorTable) -> None:
    table.dataset.delete_config_keys(list(table.dataset.config()))
    with pytest.raises(TableError, match="python -m jobs funnel"):
        Funnel.open(table.refresh())
    table.dataset.delete("shard >= 0")
    with pytest.raises(TableError, match="needs at least"):
        Funnel.build(table)


def test_more_than_there_are_gives_all(funnel: Funnel, table: VectorTable) -> None:
    table.refresh().dataset.delete("NOT id IN ('r1', 'r2', 'r3')")
    assert sorted(ids(funnel.search(query(), k=10))) == ["r1", "r2", "r3"]


def test_explain_says_what_was_read(funnel: Funnel) -> None:
    told = funnel.explain(query())
    assert [stage.dims for stage in told.stages] == [stage.dims for stage in funnel.plan.stages]
    assert told.stages[0].compared == ROWS
    assert told.exact_bytes == ROWS * WIDTH * 4
    assert 0 < sum(stage.bytes_read for stage in told.stages) < told.exact_bytes
    assert f"{told.exact_bytes:,}" in str(told)


def test_codes_leave_the_vectors_in_the_table(table: VectorTable) -> None:
    codes, whole = Funnel.open(table, home="codes"), Funnel.open(table)
    assert codes.bytes_per_vector < whole.bytes_per_vector
    *coarse, last = codes.explain(query()).stages
    assert sum(stage.requests for stage in coarse) == 0
    assert last.requests > 0
    assert last.bytes_read >= last.compared * WIDTH * 2
    with pytest.raises(TableError, match='home="memory"'):
        codes.prove(query())


def test_a_funnel_keeps_to_the_bytes_it_may_take(table: VectorTable) -> None:
    funnel = Funnel.build(table, home="codes", goal=replace(GOAL, recall=0.8, bytes_per_vector=16))
    assert funnel.plan.bytes_per_vector <= 16
    assert funnel.card.best.low >= 0.8
    with pytest.raises(TableError, match="at most 4 bytes"):
        Funnel.build(table, home="codes", goal=replace(GOAL, recall=0.99, bytes_per_vector=4))


@pytest.mark.parametrize(
    ("stages", "home"),
    [
        (adaptive_retrieval(16, WIDTH).stages, "lake"),
        (adaptive_retrieval(16, WIDTH).stages, "memory"),
        (funnel_retrieval([16, 32, 64], [200, 50, 10]).stages, "memory"),
        (funnel_retrieval([16, 32, 64], [200, 50, 10]).stages, "codes"),
        (
            (
                FunnelStage(dims=WIDTH, precision="bit1", keep=300),
                FunnelStage(dims=WIDTH, precision="int8", keep=20),
                FunnelStage(dims=WIDTH, precision="float16", keep=10),
            ),
            "codes",
        ),
    ],
)
def test_stages_of_ones_own_are_measured_and_kept(
    table: VectorTable, stages: tuple[FunnelStage, ...], home: Home
) -> None:
    funnel = Funnel.build(table, home=home, stages=stages, goal=GOAL)
    assert Funnel.open(table, home=home).plan.stages == stages
    assert funnel.card.best.keep == stages[-2].keep
    fresh = unit(vectors(200, seed=5).astype(np.float32))
    exact = np.argsort(-(fresh @ unit(vectors(ROWS).astype(np.float32)).T), axis=1)[:, :10]
    found = funnel.nearest(fresh, k=10)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert recall == pytest.approx(funnel.card.best.recall, abs=0.03)
    told = funnel.explain(query())
    assert [(stage.dims, stage.kept) for stage in told.stages] == [(stage.dims, stage.keep) for stage in stages]


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (funnel_retrieval([32, 64], [100, 10]).stages[:1], "at least 2"),
        (funnel_retrieval([16, 32], [100, 10]).stages, "64 dims float16"),
        (funnel_retrieval([24, 64], [100, 10]).stages, "not in the ladder"),
        (
            (FunnelStage(dims=16, precision="int8", keep=50), FunnelStage(dims=64, precision="float16", keep=10)),
            "needs",
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused(table: VectorTable, stages: tuple[FunnelStage, ...], said: str) -> None:
    with pytest.raises(LakeError, match=said):
        Funnel.build(table, home="lake", stages=stages)


def test_a_home_or_device_that_does_not_exist_is_refused(table: VectorTable) -> None:
    with pytest.raises(ConfigError, match="device=meta:7x"):
        Funnel.open(table, device="meta:7x")
    with pytest.raises(ConfigError, match="a funnel in the lake holds no vectors on a device"):
        Funnel.open(table, home="lake", device="cpu")
    with pytest.raises(ConfigError, match="allowed: memory, codes, lake"):
        Funnel.open(table, home="ram")  # type: ignore[arg-type]


def test_the_proof_is_the_exact_answer(table: VectorTable) -> None:
    funnel = Funnel.open(table)
    table.refresh().dataset.delete("shard = 3")
    near = np.repeat(query()[None], 2, axis=0).astype(np.float16)
    lance.write_dataset(batch(near, ROWS, table.dataset.schema), table.uri, mode="append")
    found, proven = funnel.prove(query(), k=10)
    exact = table.refresh().search(query(), k=10)
    assert ids(found) == ids(exact)
    assert found["score"].to_pylist() == pytest.approx(exact["score"].to_pylist(), abs=1e-6)
    assert dict(proven.touched)[WIDTH] < 1
    with pytest.raises(TableError, match='home="memory"'):
        Funnel.open(table, home="lake").prove(query())


def test_in_the_lake_easy_queries_look_at_fewer_candidates(table: VectorTable) -> None:
    funnel = Funnel.open(table, home="lake")
    best = funnel.card.best
    assert funnel.plan.margin == best.margin
    assert best.margin is not None
    assert best.low >= GOAL.recall
    looked_at = [funnel.explain(query(seed)).stages[1].compared for seed in range(40)]
    assert min(looked_at) < max(looked_at) <= funnel.plan.stages[0].keep
    assert np.mean(looked_at) == pytest.approx(best.looked_at, rel=0.3)
    whole = [row for row in funnel.card if row.margin is None and row.low >= GOAL.recall]
    assert best.looked_at < min(row.looked_at for row in whole)
    assert funnel.search(query(), recall=whole[0].low - 1e-9).num_rows == 10
    with pytest.raises(ValueError, match="only a plan in the lake has a margin"):
        Plan(stages=funnel.plan.stages, margin=0.1)


def test_the_lake_tunes_how_much_of_an_index_to_probe(table: VectorTable) -> None:
    column = prefix_column(16)
    table.dataset.create_index(column, "IVF_PQ", metric="cosine", num_partitions=16, num_sub_vectors=4)
    funnel = Funnel.build(table.refresh(), home="lake", goal=Goal(recall=0.8, queries=200))
    assert funnel.plan.probes in (8, 16)
    assert {row.probes for row in funnel.card} == {8, 16}
    assert len(funnel.search(query(), k=10, where="parity = 1")) == 10
    found, exact = funnel.search(query(), k=10), table.search(query(), k=ROWS)
    true = dict(zip(ids(exact), exact["score"].to_pylist(), strict=True))
    assert found["score"].to_pylist() == pytest.approx([true[i] for i in ids(found)], abs=1e-6)


def test_codes_are_cut_into_no_more_slices_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= useful_slices(100_000) <= len(os.sched_getaffinity(0))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert useful_slices(100_000) == 1


def test_slices_do_not_change_what_is_found(table: VectorTable, slices: int) -> None:
    grouped = np.argsort(vectors(ROWS)[:, 0].astype(np.float32))  # neighbours lie together, as a shard leaves them
    table.dataset.delete("shard >= 0")
    lance.write_dataset(batch(vectors(ROWS)[grouped], 0, table.dataset.schema), table.uri, mode="append")
    funnel = Funnel.build(table, GOAL)
    fresh = unit(vectors(200, seed=5).astype(np.float32))
    x_ND = unit(vectors(ROWS)[grouped].astype(np.float32))
    scores_BK, rows_BK = funnel.nearest(fresh, k=10)
    at_BK = rows_BK - funnel.nearest(x_ND[:1], k=1)[1][0, 0]
    cosines_BN = fresh @ x_ND.T
    assert scores_BK == pytest.approx(np.take_along_axis(cosines_BN, at_BK, 1), abs=1e-6)
    tenth_B = np.sort(cosines_BN, axis=1)[:, -10]
    assert (scores_BK >= tenth_B[:, None] - 1e-6).mean() >= GOAL.recall - 0.02
    assert len(funnel.search(fresh[0], k=20, where="parity = 1")) == 20
    assert ids(funnel.prove(fresh[0])[0]) == ids(table.refresh().search(fresh[0]))
