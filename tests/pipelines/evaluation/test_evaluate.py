"""Systems side by side: numbers agree with scikit-learn; cascades and searches are compared with the full width."""

from __future__ import annotations

import pytest
from sklearn.neighbors import KNeighborsClassifier

from pipelines.evaluation.results import Results
from tests.support.labelled_tables import clouds


def test_systems_and_baselines_are_measured_at_their_dims(results: Results) -> None:
    by_key = {(row.system, row.dim, row.metric): row.value.mean for row in results.rows}
    assert {name for name, _, _ in by_key} == {"MRL", "FF", "FF truncated", "FF pca", "FF random-columns"}
    assert {dim for name, dim, _ in by_key if name == "MRL"} == {4, 6, 8, 12, 16}
    assert {dim for name, dim, _ in by_key if name == "FF"} == {4, 8}
    (train, labels_N), (val, labels_Q) = clouds(600, 1), clouds(200, 2)
    for dim in (4, 6, 16):
        theirs = KNeighborsClassifier(1, metric="cosine").fit(train[:, :dim], labels_N).score(val[:, :dim], labels_Q)
        assert by_key[("MRL", dim, "1-NN")] == pytest.approx(theirs, abs=0.011)  # tables hold half precision
    metrics = {metric for _, _, metric in by_key}
    assert metrics >= {"linear", "1-NN", "mAP@10", "recall@3", "1-NN, 2-shot", "linear, long tail", "1-NN, tail"}


def test_every_number_has_an_interval_and_a_difference_from_the_first_system(results: Results) -> None:
    assert {row.dim: row.is_made_for for row in results.rows if row.system == "MRL"} == {
        4: True,
        6: False,
        8: True,
        12: False,
        16: True,
    }
    for row in results.rows:
        assert row.value.low <= row.value.mean <= row.value.high
        assert (row.above is None) == (row.system == "MRL")


def test_the_chosen_cascade_and_all_searches_are_compared_with_the_full_width(results: Results) -> None:
    adaptive, searches = results.adaptive, results.searches
    assert adaptive is not None
    assert adaptive.held_out + adaptive.queries == 200
    assert 4 <= adaptive.best.dims.mean <= 16
    assert adaptive.best.dims.mean <= adaptive.best.cumulative.mean
    full = next(one for one in searches if one.setting.dims == (16,))
    above = full.above_full["mAP@10"]
    assert (above.mean, above.low, above.high) == (0, 0, 0)
    assert full.mflops == pytest.approx(600 * 16 / 1e6)
    assert {one.setting.kind for one in searches} == {"single shot", "adaptive", "funnel"}
