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
from pipelines.funnel.rerank import are_close
from pipelines.tables.table import VectorTable, create_table
from pipelines.vectors.matryoshka import unit
from schemas.errors import FunnelWarning, TableError
from tests.support.funnel_tables import GOAL, ROWS, SPACE, append, batch, query, vectors

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
    with pytest.raises(TableError, match=r"9 test queries without a miss confirm 0.70\d+\); nothing is stored"):
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
    without_reach = funnel.plan.model_copy(update={"reach": None})
    wide, narrow = (
        float((funnel._index.find(query_BD, 10, plan).scores_BK >= kth_B1 - 1e-6).mean())
        for plan in (funnel.plan, without_reach)
    )
    assert wide >= narrow
    assert wide >= (narrow + 0.02 if funnel.plan.home == "lake" else GOAL.target - 0.05)


def test_candidates_are_close_where_they_do_not_fall_off() -> None:
    falling, flat = np.linspace(1, 0, 40), np.linspace(0.5, 0.45, 40)
    copies, few = np.full(40, 0.5), np.r_[np.linspace(1, 0.9, 12), np.full(28, -np.inf)]
    scores_BK = np.array([falling, flat, copies, few], np.float32)
    plan = adaptive_retrieval(16, 64, keep=40).model_copy(update={"reach": (0.1, 0.9)})
    assert are_close(scores_BK, plan, False).tolist() == [False, True, False, False]
    assert are_close(scores_BK, plan, np.array([True, True, True, True])).tolist() == [True, True, False, False]
    assert not are_close(scores_BK, plan.model_copy(update={"reach": None}), True).any()
