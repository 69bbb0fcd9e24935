"""A month of thirty nights, which every morning must have made of the lake what a table made from scratch is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.faults import Run
from tests.chaos.lake import Lake
from tests.chaos.nights import KINDS, Month
from tests.chaos.shared_cluster import open_shared_cluster
from tests.support.s3 import S3Server

_DAYS = range(1, 31)
_WORSE, _BACK, _BETTER = 8, 11, 19
_DISTURBED = [kind for kind in KINDS if kind != "quiet"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_month_in_which_a_worse_model_is_refused_and_a_better_one_published(
    s3_server: S3Server, tmp_path: Path
) -> None:
    rng = random.Random(30)
    with open_shared_cluster(s3_server) as shared:
        run = Run(shared, [], tmp_path / "log.txt", rng, lambda: 0.0, "", lambda: None, lambda: None)
        month = Month(run, lake := Lake(tmp_path, rng))
        first = lake.model
        for day in _DAYS:
            month.day(changes_model=False)
            changed = {_WORSE: lake.worse, _BACK: lambda: first, _BETTER: lake.better}.get(day)
            if changed is not None:
                lake.use(changed())
            month.night(rng.choice(_DISTURBED) if rng.random() < 0.4 else "quiet")
        month.end()
    assert len(month.codes) > len(_DAYS)
    assert [model.is_blind for model in lake.models] == [False, True, False]
