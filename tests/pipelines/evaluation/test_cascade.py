"""Cascades equal a loop over queries, and their thresholds are the best of the grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.cascade import (
    GRID,
    NEVER,
    CascadeStages,
    cheapest_as_accurate,
    evaluate_cascade,
    learn_thresholds,
    pareto_front,
    run_cascade,
)

DIMS = (8, 16, 64)


def _stages(seed: int, queries: int = 200, dims: tuple[int, ...] = DIMS) -> CascadeStages:
    """Classifiers that are the more often right the wider they are, and the surer the more often right."""
    rng = np.random.default_rng(seed)
    hardness_Q = rng.random(queries)
    sure_GQ = (1.1 - hardness_Q[None] * np.linspace(0.9, 0.4, len(dims))[:, None]).clip(0.1, 1)
    return CascadeStages(dims, sure_GQ, rng.random((len(dims), queries)) < sure_GQ)


def test_stages_keep_of_a_softmax_what_matters() -> None:
    softmax = [np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([[0.9, 0.1], [0.8, 0.2]])]
    stages = CascadeStages.of((2, 4), softmax, [0, 1])
    np.testing.assert_allclose(stages.confidence_GQ, [[0.7, 0.6], [0.9, 0.8]])
    np.testing.assert_array_equal(stages.right_GQ, [[True, True], [True, False]])
    assert stages.accuracy(1) == 0.5


@settings(max_examples=30)
@given(st.integers(0, 1000), st.lists(st.floats(0, 1.2), min_size=2, max_size=2))
def test_a_cascade_is_a_loop_over_queries(seed: int, thresholds: list[float]) -> None:
    stages = _stages(seed, 50)
    outcome = run_cascade(stages, np.array(thresholds))
    for q in range(50):
        stage = next((g for g in range(2) if stages.confidence_GQ[g, q] >= thresholds[g]), 2)
        assert outcome.stage_Q[q] == stage
        assert outcome.right_Q[q] == stages.right_GQ[stage, q]
        assert outcome.dims_Q[q] == DIMS[stage]
        assert outcome.cumulative_Q[q] == sum(DIMS[: stage + 1])


def test_thresholds_of_0_stop_everything_at_once_and_those_above_1_nothing() -> None:
    stages = _stages(0)
    first, last = run_cascade(stages, np.zeros(2)), run_cascade(stages, np.full(2, 1.01))
    assert (first.stage_Q == 0).all()
    assert (last.stage_Q == 2).all()
    assert first.right_Q.mean() == stages.accuracy(0)
    assert last.right_Q.mean() == stages.accuracy(-1)
    assert (last.cumulative_Q == sum(DIMS)).all()


@settings(max_examples=40)
@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.floats(0, 1.1), st.floats(0, 0.5)), min_size=2, max_size=2),
)
def test_higher_thresholds_never_cost_fewer_dims(seed: int, raised: list[tuple[float, float]]) -> None:
    stages = _stages(seed, 60)
    low, high = np.array([t for t, _ in raised]), np.array([t + more for t, more in raised])
    cheap, dear = run_cascade(stages, low), run_cascade(stages, high)
    assert (cheap.dims_Q <= dear.dims_Q).all()
    assert (cheap.dims_Q <= cheap.cumulative_Q).all()


def test_learnt_thresholds_of_two_stages_are_the_best_of_the_grid() -> None:
    stages = _stages(1, 300, (8, 64))
    for trade in (0.0, 0.01, 0.1, 1.0):

        def reward(threshold: float, trade: float = trade) -> float:
            outcome = run_cascade(stages, np.array([threshold]))
            return float(outcome.right_Q.mean() - trade * outcome.dims_Q.mean() / 64)

        assert reward(learn_thresholds(stages, trade)[0]) == pytest.approx(max(map(reward, GRID)))


def test_learnt_thresholds_of_three_stages_are_close_to_the_best_pair() -> None:
    stages = _stages(2, 300)

    def reward(thresholds: np.ndarray) -> float:
        outcome = run_cascade(stages, thresholds)
        return float(outcome.right_Q.mean() - 0.05 * outcome.dims_Q.mean() / 64)

    best = max(reward(np.array(pair)) for pair in itertools.product(GRID[::4], repeat=2))
    assert reward(learn_thresholds(stages, 0.05)) >= best - 0.01


def test_the_frontier_falls_in_dims_and_accuracy_and_its_cheapest_as_good_is_as_good() -> None:
    holdout = _stages(3, 500)
    settings_ = pareto_front(holdout)
    met = [run_cascade(holdout, one) for one in settings_]
    dims = [outcome.dims_Q.mean() for outcome in met]
    accuracies = [outcome.right_Q.mean() for outcome in met]
    assert dims == sorted(dims, reverse=True)
    assert accuracies == sorted(accuracies, reverse=True)
    chosen = run_cascade(holdout, settings_[cheapest_as_accurate(holdout, settings_)])
    assert chosen.right_Q.mean() >= holdout.accuracy(-1)
    assert chosen.dims_Q.mean() < 64


def test_where_no_short_prefix_helps_the_full_width_answers() -> None:
    confidence = np.full((2, 100), 0.5)
    right = np.array([np.zeros(100, bool), np.ones(100, bool)])
    holdout = CascadeStages((8, 64), confidence, right)
    settings_ = pareto_front(holdout)
    thresholds = settings_[cheapest_as_accurate(holdout, settings_)]
    assert run_cascade(holdout, thresholds).dims_Q.mean() == 64
    assert NEVER in GRID


def test_thresholds_are_learnt_on_one_part_of_the_queries_and_tested_on_the_other() -> None:
    stages = _stages(4, 400)
    found = evaluate_cascade(stages, 0.25, seed=1, resamples=50)
    assert (found.dims, found.held_out, found.queries) == (DIMS, 100, 300)
    _, test = stages.split(0.25, 1)
    assert [one.mean for one in found.alone] == pytest.approx([test.accuracy(stage) for stage in range(3)])
    for point in found.points:
        outcome = run_cascade(test, np.array(point.thresholds))
        assert point.accuracy.mean == pytest.approx(outcome.right_Q.mean())
        assert point.dims.mean == pytest.approx(outcome.dims_Q.mean())
        assert point.above_full.mean == pytest.approx(point.accuracy.mean - test.accuracy(-1))
        assert point.dims.low <= point.dims.mean <= point.dims.high
    assert found.best is found.points[found.chosen]
