"""Scores by dim: intervals, paired differences, few-shot and long-tail training sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.by_dim import (
    compare_systems,
    few_shot,
    head_and_tail,
    long_tail,
    measure,
    measure_few_shot,
    measure_long_tail,
)
from pipelines.evaluation.metrics import Labels
from pipelines.evaluation.systems import System, make_baseline, nested
from pipelines.shortlist.bootstrap import Interval

WIDTH = 16


def test_rows_carry_means_intervals_and_paired_differences(sides: tuple[np.ndarray, np.ndarray], truth: Labels) -> None:
    whole, worse = nested("x", sides, (4, 16), (16,)), make_baseline("truncation", "x", sides, (4, 16))
    measured = measure(whole, truth) | measure(worse, truth)
    rows = {
        (row.system, row.dim, row.metric): row for row in compare_systems(measured, [whole, worse], "x", resamples=200)
    }
    assert len(rows) == 2 * 2 * 3
    for key, row in rows.items():
        assert row.value.low <= row.value.mean <= row.value.high
        assert row.value.mean == pytest.approx(measured[key].mean())
    assert rows[("x", 4, "1-NN")].above is None
    assert not rows[("x", 4, "1-NN")].is_made_for
    # Both hold the same vectors, so on the same queries the difference is none, and surely so.
    assert rows[("x truncated", 4, "1-NN")].above == Interval(0, 0, 0)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 99))
def test_few_shot_takes_so_many_of_each_class(labels: list[int], shots: int, seed: int) -> None:
    labels_N = np.array(labels)
    rows = few_shot(labels_N, shots, seed)
    assert len(set(rows.tolist())) == len(rows)
    for one in set(labels):
        assert (labels_N[rows] == one).sum() == min(shots, labels.count(one))


def test_a_long_tail_falls_exponentially_from_head_to_tail() -> None:
    labels_N = np.arange(5000) % 10
    rows, order_C = long_tail(labels_N, imbalance=100, seed=1)
    sizes = [int((labels_N[rows] == one).sum()) for one in order_C]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (500, 5)
    assert sizes[3] / sizes[6] == pytest.approx(100 ** (3 / 9), rel=0.05)
    head, tail = head_and_tail(order_C)
    assert (len(head), len(tail)) == (3, 3)
    assert not set(head) & set(tail)


def test_fewer_shots_know_less_and_the_tail_knows_less_than_the_head(
    sides: tuple[np.ndarray, np.ndarray], truth: Labels
) -> None:
    system: System = nested("x", sides, (WIDTH,))
    one, many = (measure_few_shot(system, truth, shots, repeats=3) for shots in (1, 40))
    assert one[("x", WIDTH, "1-NN, 1-shot")].mean() < many[("x", WIDTH, "1-NN, 40-shot")].mean()
    assert many[("x", WIDTH, "linear, 40-shot")].mean() > 0.7
    thinned = measure_long_tail(system, truth, imbalance=80, repeats=4)
    head, tail = (np.nanmean(thinned[("x", WIDTH, f"1-NN, {end}")]) for end in ("head", "tail"))
    assert tail < head
    assert thinned[("x", WIDTH, "1-NN, long tail")].shape == (100,)
