"""The memory home beneath `Funnel`: bounds on what it holds, slices, and rows that are gone."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.funnel import Home
from pipelines.funnel.faiss_stages import train_stages
from pipelines.funnel.memory import MemoryIndex
from pipelines.funnel.plan import adaptive_retrieval
from pipelines.funnel.slices import FaissSlices, empty_stores
from pipelines.funnel.stage_index import Fill
from pipelines.tables.table import VectorTable
from pipelines.vectors.matryoshka import unit
from schemas.plans import Plan
from tests.support.funnel_tables import PREFIX, ROWS, WIDTH, recall_at_10, vectors


def plan_in(home: Home) -> Plan:
    return adaptive_retrieval(PREFIX, WIDTH, keep=300).model_copy(update={"home": home})


def filler(plan: Plan, count: int) -> Fill:
    empty = train_stages(plan, vectors(ROWS).astype(np.float32))

    def fill(blocks: object, rows: int) -> FaissSlices:
        stores = empty_stores(rows, WIDTH, count) if plan.home == "memory" else None
        return FaissSlices.build(empty, blocks, rows, stores, count)  # type: ignore[arg-type]

    return fill


@pytest.mark.parametrize("home", ["memory", "codes"])
def test_few_candidates_held_at_once_change_nothing(table: VectorTable, home: Home) -> None:
    plan, query_BD = plan_in(home), unit(vectors(9, seed=5).astype(np.float32))
    whole = MemoryIndex(table.dataset, plan, filler(plan, 1))
    parts = MemoryIndex(table.dataset, plan, filler(plan, 1), max_candidates_held=200)
    for where in (None, "parity = 1"):
        expected, found = (index.find(query_BD, 4, plan, where) for index in (whole, parts))
        assert found.rows_BK.tolist() == expected.rows_BK.tolist()
        assert found.scores_BK == pytest.approx(expected.scores_BK, abs=1e-6)


@pytest.mark.parametrize("home", ["memory", "codes"])
@pytest.mark.parametrize("count", [1, 3])
def test_rows_that_are_gone_leave_room_for_others(table: VectorTable, home: Home, count: int) -> None:
    plan, query_BD = plan_in(home), unit(vectors(50, seed=5).astype(np.float32))
    index = MemoryIndex(table.dataset, plan, filler(plan, count))
    ids_N = index.all_rows()[1]
    table.refresh().dataset.delete("shard < 5")
    index.refresh(table.refresh().dataset)
    _, left_N, left_ND = index.all_rows()
    assert len(left_N) == table.refresh().dataset.count_rows()
    assert set(left_N) < set(ids_N)
    found = index.find(query_BD, 10, plan)
    exact_BN = left_N[np.argsort(-(query_BD @ unit(left_ND.astype(np.float32)).T), axis=1)]
    assert recall_at_10(found.rows_BK, exact_BN) > 0.9
    assert (index.find(query_BD, 20, plan, "parity = 1").rows_BK >= 0).all()
