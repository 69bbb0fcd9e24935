from __future__ import annotations

import numpy as np
import pytest

from pipelines.funnel import Funnel
from pipelines.funnel.lake import LakeIndex
from pipelines.tables.table import VectorTable
from schemas.plans import Plan
from tests.support.funnel_tables import GOAL, query


def test_easy_queries_look_at_fewer_candidates(table: VectorTable) -> None:
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


def test_a_number_of_candidates_switches_the_margin_off(table: VectorTable) -> None:
    plan = Funnel.stored(table, "lake").plan
    index = LakeIndex(table.dataset, plan)
    every = LakeIndex(table.dataset, plan.model_copy(update={"margin": None}))
    keep = plan.candidates + 50
    wide = every.find(query()[None], 5, keep=keep)
    assert index.find(query()[None], 5, keep=keep).rows_BK.tolist() == wide.rows_BK.tolist()
    assert index.bytes_per_vector == 0
