from __future__ import annotations

import pytest

from pipelines.funnel import FunnelStage, adaptive_retrieval, funnel_retrieval
from pipelines.funnel.plan import plan_of_stages
from pipelines.tables.table import VectorTable
from schemas.errors import LakeError


def test_the_papers_plans() -> None:
    plan = funnel_retrieval([16, 32, 64, 128, 256, 2048], [200, 100, 50, 25, 10, 10])
    assert [(stage.dims, stage.keep) for stage in plan.stages][::5] == [(16, 200), (2048, 10)]
    assert adaptive_retrieval(16, 2048) == funnel_retrieval([16, 2048], [200, 10])


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
        plan_of_stages(stages, "lake", table)
