from __future__ import annotations

import numpy as np
import pytest
from lance.fragment import write_fragments

from pipelines.funnel import Funnel, adaptive_retrieval, funnel_retrieval
from pipelines.funnel.lake import LakeIndex, coarse_candidates
from pipelines.tables.commits import commit_fragments
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats
from pipelines.vectors.matryoshka import cut, unit
from tests.support.funnel_tables import PREFIX, ROWS, WIDTH, batch, ids, query, vectors


def prefix_scores(query_D: Floats) -> Floats:
    """Cosines of the prefixes, best first."""
    scores: Floats = np.sort(cut(vectors(ROWS).astype(np.float32), PREFIX) @ cut(query_D, PREFIX))[::-1]
    return scores


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.1, 2.0])
def test_candidates_further_than_the_margin_below_the_kth_are_not_read(table: VectorTable, margin: float) -> None:
    plan = adaptive_retrieval(PREFIX, WIDTH, keep=300).model_copy(update={"home": "lake", "margin": margin})
    for seed in range(5):
        scores = prefix_scores(query(seed))
        near = (scores >= scores[plan.k - 1] - margin).sum()
        read = len(coarse_candidates(table.dataset, plan, query(seed))[1])
        assert read == pytest.approx(min(300, near), abs=2)  # half precision may move the last ones


def test_fewer_results_are_the_first_of_the_k_that_was_measured(table: VectorTable) -> None:
    plan = adaptive_retrieval(PREFIX, WIDTH, keep=300).model_copy(update={"home": "lake", "margin": 0.02})
    index = LakeIndex(table.dataset, plan)
    ten = index.find(query()[None], 10, plan).rows_BK
    assert index.find(query()[None], 1, plan).rows_BK.tolist() == ten[:, :1].tolist()
    assert index.bytes_per_vector == 0


def test_stages_in_between_narrow_the_candidates(table: VectorTable) -> None:
    plan = funnel_retrieval([PREFIX, 32, WIDTH], [200, 50, 10]).model_copy(update={"home": "lake"})
    x_ND, query_D = unit(vectors(ROWS).astype(np.float32)), query()
    first = np.argsort(-(cut(x_ND, PREFIX) @ cut(query_D, PREFIX)))[:200]
    second = first[np.argsort(-(cut(x_ND[first], 32) @ cut(query_D, 32)))[:50]]
    assert len(set(coarse_candidates(table.dataset, plan, query_D)[1]) & set(second)) >= 48


def test_the_margin_of_a_tuned_plan_is_on_its_card(table: VectorTable) -> None:
    funnel = Funnel.open(table, home="lake")
    assert funnel.plan.margin == funnel.card.best.margin
    assert funnel.explain(query()).stages[1].compared <= funnel.plan.stages[0].keep


def test_rows_that_lack_the_prefix_column_are_found(table: VectorTable) -> None:
    late = np.repeat(query()[None], 3, axis=0).astype(np.float16)
    before = VectorTable.open(table.uri, 2)  # as a run that began before the prefix was added
    assert before.prefix_dims == ()
    rows = batch(late, ROWS, before.dataset.schema)
    fragments = write_fragments(rows, before.dataset, schema=rows.schema)
    commit_fragments(table.refresh().dataset, fragments, set(), "test", table.storage)
    found = Funnel.open(table, home="lake").search(query(), k=3)
    assert ids(found) == [f"r{n}" for n in range(ROWS, ROWS + 3)]
