"""Systems side by side: prefixes, baselines and splits are what they say; intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.baselines import Baseline, make_baseline
from pipelines.evaluation.intervals import Interval, interval, resample
from pipelines.evaluation.metrics import Labels
from pipelines.evaluation.splits import few_shot, head_and_tail, long_tail
from pipelines.evaluation.systems import System, between, fixed, nested
from pipelines.evaluation.table import measure, measure_few_shot, measure_long_tail, rows_of
from pipelines.vectors.matryoshka import cut, unit
from pipelines.vectors.rotation import fit_pca

WIDTH, CLASSES = 16, 5


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    """Two clouds around five points, whose first dims carry the least."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, WIDTH)) * np.linspace(0.2, 1.5, WIDTH)
    return tuple(  # type: ignore[return-value]
        unit((centres[np.arange(n) % CLASSES] + 0.5 * rng.standard_normal((n, WIDTH))).astype(np.float32))
        for n in (400, 100)
    )


@pytest.fixture(scope="module")
def truth() -> Labels:
    return Labels(np.arange(400) % CLASSES, np.arange(100) % CLASSES, k=10, recall_ks=(5,))


def test_a_nested_system_cuts_and_dims_between_rungs_are_half_way(sides: tuple[np.ndarray, np.ndarray]) -> None:
    system = nested("x", sides, (8, 4, *between((4, 8, 16))), made_for=(4, 8, 16))
    assert system.dims == (4, 6, 8, 12)
    assert system.made_for == {4, 8, 16}
    np.testing.assert_array_equal(system.at(6)[1], cut(sides[1], 6))
    assert between((1, 2, 4)) == (3,)


def test_the_pca_baseline_is_the_rotation_fitted_on_the_database(sides: tuple[np.ndarray, np.ndarray]) -> None:
    turned = fit_pca([sides[0]])
    baseline = make_baseline("pca", "x", sides, (4, 16))
    for side, x in zip(baseline.at(4), sides, strict=True):
        np.testing.assert_allclose(side, cut(turned.apply(x), 4), atol=1e-6)


@pytest.mark.parametrize("kind", ["truncation", "pca", "random-columns", "random-projection"])
def test_at_full_width_every_baseline_tells_the_same(
    kind: Baseline, sides: tuple[np.ndarray, np.ndarray], truth: Labels
) -> None:
    whole = measure(nested("x", sides, (WIDTH,)), truth)
    baseline = make_baseline(kind, "x", sides, (WIDTH,), seed=3)
    assert baseline.is_baseline
    found = measure(baseline, truth)
    for (_, dim, metric), scores in whole.items():
        np.testing.assert_allclose(found[(baseline.name, dim, metric)], scores, err_msg=metric, atol=0.03)


def test_pca_beats_plain_truncation_where_the_first_dims_carry_least(
    sides: tuple[np.ndarray, np.ndarray], truth: Labels
) -> None:
    pca, raw = (
        np.mean(measure(make_baseline(kind, "x", sides, (2,)), truth, has_probe=True)[(f"x {name}", 2, "linear")])
        for kind, name in (("pca", "pca"), ("truncation", "truncated"))
    )
    assert pca > raw + 0.1


def test_a_fixed_system_reads_each_dim_when_it_is_asked(sides: tuple[np.ndarray, np.ndarray]) -> None:
    asked: list[int] = []

    def read(dim: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(dim)
        return cut(sides[0], dim), cut(sides[1], dim)

    system = fixed("FF", {4: lambda: read(4), 8: lambda: read(8)})
    assert system.dims == (4, 8)
    assert not asked
    np.testing.assert_allclose(system.at(8)[0], cut(sides[0], 8), atol=1e-6)
    assert asked == [8]


def test_rows_carry_means_intervals_and_paired_differences(sides: tuple[np.ndarray, np.ndarray], truth: Labels) -> None:
    whole, worse = nested("x", sides, (4, 16), (16,)), make_baseline("truncation", "x", sides, (4, 16))
    measured = measure(whole, truth) | measure(worse, truth)
    rows = {(row.system, row.dim, row.metric): row for row in rows_of(measured, [whole, worse], "x", draws=200)}
    assert len(rows) == 2 * 2 * 3
    for key, row in rows.items():
        assert row.value.low <= row.value.mean <= row.value.high
        assert row.value.mean == pytest.approx(measured[key].mean())
    assert rows[("x", 4, "1-NN")].above is None
    assert not rows[("x", 4, "1-NN")].is_made_for
    # Both hold the same vectors, so on the same queries the difference is none, and surely so.
    assert rows[("x truncated", 4, "1-NN")].above == Interval(0, 0, 0)
    assert rows[("x", 4, "1-NN")].as_json()["value"] == vars(rows[("x", 4, "1-NN")].value)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_the_bootstrap_agrees_with_the_normal_interval_of_many_queries(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.random((1, 2000)) < share).astype(float)
    found = interval(float(scores.mean()), resample(scores, 400, seed)[0])
    half = 1.96 * scores.std() / np.sqrt(2000)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.25)
    assert found.low <= scores.mean() <= found.high


def test_scores_that_are_not_there_are_left_out_of_means() -> None:
    scores = np.array([[1.0, np.nan, 1.0, np.nan], [0.0, 1.0, 0.0, 1.0]])
    means = resample(scores, 50)
    assert set(means[0]) <= {0.0, 1.0}  # 0 where a draw holds none
    assert means[1].std() > 0


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
