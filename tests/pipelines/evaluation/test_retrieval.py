"""Adaptive and funnel retrieval find the results of plain sorting, at the paper's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.metrics import Labels
from pipelines.evaluation.retrieval import SearchSetting, mflops, retrieve, settings_for
from pipelines.vectors.matryoshka import cut, unit


def test_costs_are_those_of_the_paper() -> None:
    rows = 1_281_167
    assert mflops(rows, [2048], [10]) == pytest.approx(2623.8, rel=1e-3)
    adaptive = mflops(rows, [16, 2048], [200, 10])
    assert adaptive - mflops(rows, [16], [200]) == pytest.approx(0.41, abs=0.01)
    assert mflops(rows, [16], [200]) == pytest.approx(20.5, abs=0.01)
    funnel = mflops(rows, [16, 32, 64, 128, 256, 2048], [200, 100, 50, 25, 10, 10])
    assert funnel - mflops(rows, [16], [200]) == pytest.approx(0.046, abs=0.001)


def test_settings_are_every_dim_every_pair_and_a_funnel_from_every_dim() -> None:
    found = settings_for((16, 32, 64, 128, 256, 2048), 200, (200, 100, 50, 25, 10), 10)
    kinds = [setting.kind for setting in found]
    assert (kinds.count("single shot"), kinds.count("adaptive")) == (6, 15)
    funnels = [setting for setting in found if setting.kind == "funnel"]
    assert funnels[0] == SearchSetting("funnel", (16, 32, 64, 128, 256, 2048), (200, 100, 50, 25, 10, 10))
    assert all(len(setting.dims) > 2 and setting.dims[-1] == 2048 for setting in funnels)
    assert str(found[0]) == "16 (10)"


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    spread = np.geomspace(1, 0.1, 32)
    return tuple(unit((rng.standard_normal((n, 32)) * spread).astype(np.float32)) for n in (500, 40))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def truth(sides: tuple[np.ndarray, np.ndarray]) -> Labels:
    return Labels((sides[0][:, 0] > 0).astype(np.int64), (sides[1][:, 0] > 0).astype(np.int64), k=10)


@pytest.mark.parametrize(
    "setting",
    [
        SearchSetting("single shot", (16,), (10,)),
        SearchSetting("adaptive", (8, 32), (50, 10)),
        SearchSetting("adaptive", (4, 16), (50, 10)),
        SearchSetting("funnel", (4, 8, 16, 32), (80, 40, 20, 10)),
    ],
    ids=str,
)
def test_stages_are_those_of_sorting_and_keeping(
    setting: SearchSetting, sides: tuple[np.ndarray, np.ndarray], truth: Labels
) -> None:
    found = retrieve(sides, truth, setting)
    expected = []
    for query in sides[1]:
        left = np.arange(500)
        for dim, keep in zip(setting.dims, setting.keeps, strict=True):
            left = left[np.argsort(-(cut(sides[0][left], dim) @ cut(query, dim)), kind="stable")[:keep]]
        expected.append(left)
    by_hand = truth.score(np.array(expected))
    for metric, scores in by_hand.items():
        # Stages hold half-precision vectors, so a near tie may fall the other way.
        assert np.abs(found.scores[metric] - scores).mean() < 0.02
    assert found.mflops == mflops(500, setting.dims, setting.keeps)
    assert found.milliseconds > 0


def test_a_database_smaller_than_the_shortlist_is_searched_whole(sides: tuple[np.ndarray, np.ndarray]) -> None:
    few = Labels(np.arange(12) % 2, np.arange(40) % 2, k=10)
    adaptive = retrieve((sides[0][:12], sides[1]), few, SearchSetting("adaptive", (4, 32), (200, 10)))
    single = retrieve((sides[0][:12], sides[1]), few, SearchSetting("single shot", (32,), (10,)))
    assert np.abs(adaptive.scores["mAP@10"] - single.scores["mAP@10"]).mean() < 0.02
