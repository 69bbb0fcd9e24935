"""Recall of every home against plain numpy: for several k, and with copies of one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pipelines.funnel import Funnel, Goal, Home, adaptive_retrieval
from pipelines.tables.create import create_table
from pipelines.tables.table import VectorTable
from pipelines.vectors.matryoshka import unit
from schemas.errors import FunnelWarning, TableError
from schemas.plans import FunnelStage
from tests.support.funnel_tables import GOAL, PREFIX, ROWS, SPACE, WIDTH, append, batch, query, vectors

X_ND = unit(vectors(ROWS).astype(np.float32))
QUERIES = unit(vectors(60, seed=5).astype(np.float32))


def recall_by_score(scores_BK: npt.NDArray[np.float32], x_ND: npt.NDArray[np.float32]) -> float:
    """Share of the results of `QUERIES` that score at least as well as the exact k-th."""
    kth_B1 = np.sort(QUERIES @ x_ND.T, axis=1)[:, -scores_BK.shape[1]][:, None]
    return float((scores_BK >= kth_B1 - 1e-6).mean())


@pytest.mark.parametrize("k", [1, 10, 40, 100])
def test_recall_holds_for_every_k_up_to_the_deepest_on_the_card(funnel: Funnel, k: int) -> None:
    assert funnel.card.depths[-1].k == 100
    assert recall_by_score(funnel.nearest(QUERIES, k)[0], X_ND) >= GOAL.target - 0.02


@pytest.mark.parametrize("home", get_args(Home))
def test_beyond_the_card_every_row_is_compared_and_that_is_said_once(table: VectorTable, home: Home) -> None:
    funnel = Funnel.open(table, home=home)
    with pytest.warns(FunnelWarning, match=rf"k=1000: .* every row is compared; .* --home {home} --k 1000"):
        scores_BK, _ = funnel.nearest(QUERIES, 1_000)
    assert recall_by_score(scores_BK, X_ND) == 1
    append(table, np.repeat(query()[None], 3, axis=0).astype(np.float16))
    table.refresh().dataset.delete("shard = 3")
    found = funnel.search(query(), k=1_000, where="parity = 0")
    assert found["score"].to_pylist() == pytest.approx(
        table.refresh().search(query(), k=1_000, where="parity = 0")["score"].to_pylist(), abs=1e-6
    )


@pytest.mark.parametrize("home", ["memory", "codes"])
@pytest.mark.parametrize("copies", [700, 2_000])
def test_copies_of_one_row_make_no_plan_miss(tmp_path: Path, home: Home, copies: int) -> None:
    x_ND = vectors(2_000)
    x_ND[:copies] = x_ND[0]
    copied = create_table(str(tmp_path / "t.lance"), SPACE, pa.schema([pa.field("parity", pa.int64())]))
    lance.write_dataset(batch(x_ND, 0, copied.dataset.schema), copied.uri, mode="append")
    funnel = Funnel.build(copied.refresh(), GOAL, home=home)
    assert funnel.card.best.low >= GOAL.target
    assert recall_by_score(funnel.nearest(QUERIES, 10)[0], unit(x_ND.astype(np.float32))) >= GOAL.target - 0.02


def test_a_recall_that_few_queries_cannot_confirm_is_refused_and_nothing_is_stored(table: VectorTable) -> None:
    before = table.dataset.config()
    with pytest.raises(TableError, match=r"too few queries \(12, .* they confirm 0\.70\d+; nothing is stored"):
        Funnel.build(table, Goal(recall=0.9999, queries=12))
    assert table.refresh().dataset.config() == before


def test_a_table_that_has_outgrown_its_card_says_so_once(table: VectorTable) -> None:
    funnel = Funnel.open(table)
    funnel.search(query())
    append(table, vectors(ROWS, seed=3))
    funnel.search(query())
    append(table, vectors(1, seed=4), first=2 * ROWS)
    with pytest.warns(FunnelWarning, match=r"has 12,001 rows, and its recall card speaks of 6,000 \(version \d+\)"):
        funnel.search(query())
    funnel.search(query())


@pytest.mark.parametrize("is_open", [True, False])
def test_a_question_whose_best_rows_are_gone_finds_the_best_of_the_others(
    table: VectorTable, how: dict[str, Any], is_open: bool
) -> None:
    query_BD, left_N = QUERIES[:8], np.ones(ROWS, np.bool_)
    left_N[np.argsort(-(query_BD @ X_ND.T), axis=1)[:, :30]] = False
    before = Funnel.open(table, **how)
    gone = ", ".join(f"'r{n}'" for n in np.flatnonzero(~left_N))
    table.refresh().dataset.delete(f"id IN ({gone})")
    funnel = before if is_open else Funnel.open(table, **how)
    funnel.refresh()
    kth_B1 = np.sort(query_BD @ X_ND[left_N].T, axis=1)[:, -10][:, None]
    unchecked = funnel.plan.model_copy(update={"reach": None, "doubt": None})
    wide, narrow = (
        float((funnel._index.find(query_BD, 10, plan).scores_BK >= kth_B1 - 1e-6).mean())
        for plan in (funnel.plan, unchecked)
    )
    assert wide >= narrow
    assert wide >= (narrow if funnel.plan.home == "lake" else GOAL.target - 0.1)


def test_a_gap_is_seen_in_the_lake_whoever_made_it(table: VectorTable) -> None:
    stages = adaptive_retrieval(PREFIX, WIDTH, keep=100).stages
    funnel = Funnel.build(table, Goal(queries=250), home="lake", stages=stages)
    assert funnel.plan.doubt is not None
    assert funnel.plan.doubt < 1
    gone_BN = np.argsort(-(QUERIES[:20] @ X_ND.T), axis=1)[:, :200]
    found, unchecked = [], []
    for query_D, gone in zip(QUERIES[:20], gone_BN, strict=True):
        where = "id NOT IN ({})".format(", ".join(f"'r{n}'" for n in gone))
        kth = np.sort(np.delete(X_ND, gone, axis=0) @ query_D)[-10]
        for scores, plan in ((found, funnel.plan), (unchecked, funnel.plan.model_copy(update={"doubt": None}))):
            scores.append((funnel._index.find(query_D[None], 10, plan, where).scores_BK >= kth - 1e-6).mean())
    assert np.mean(unchecked) < 0.75
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("is_open", [True, False])
def test_a_gap_is_seen_where_the_last_codes_leave_only_k_candidates(table: VectorTable, is_open: bool) -> None:
    codes = (
        FunnelStage(dims=WIDTH, precision="pq4", codes=64, keep=60),
        FunnelStage(dims=WIDTH, precision="int8", keep=10),
        FunnelStage(dims=WIDTH, precision="float16", keep=10),
    )
    before = Funnel.build(table, Goal(queries=250), home="codes", stages=codes)
    assert before.plan.reach is not None
    found, unchecked = [], []
    for query_D in QUERIES[:6]:
        gone = ", ".join(f"'r{n}'" for n in np.argsort(-(X_ND @ query_D))[:200])
        table.refresh().dataset.delete(f"id IN ({gone})")
        funnel = before if is_open else Funnel.open(table, home="codes")
        funnel.refresh()
        left = [int(name[1:]) for name in table.refresh().dataset.to_table(columns=["id"])["id"].to_pylist()]
        kth = np.sort(X_ND[left] @ query_D)[-10]
        for scores, plan in ((found, funnel.plan), (unchecked, funnel.plan.model_copy(update={"reach": None}))):
            scores.append((funnel._index.find(query_D[None], 10, plan).scores_BK >= kth - 1e-6).mean())
    assert np.mean(found) >= 0.95
    assert is_open or np.mean(found) > np.mean(unchecked)


def test_explain_counts_the_rows_that_are_in_the_table(table: VectorTable, how: dict[str, Any]) -> None:
    funnel = Funnel.open(table, **how)
    table.refresh().dataset.delete("shard = 3")
    append(table, vectors(5, seed=4), first=9_000)
    rows = table.refresh().dataset.count_rows()
    told = funnel.explain(query())
    assert told.exact_bytes == rows * WIDTH * 4
    assert rows - 5 <= told.stages[0].compared <= rows
