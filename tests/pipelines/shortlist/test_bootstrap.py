"""The bootstrap: intervals agree with the normal approximation and with scipy; missing scores are left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.shortlist.bootstrap import interval, intervals, resample


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


def test_intervals_are_those_of_scipy() -> None:
    scores = np.random.default_rng(0).beta(2, 5, (2, 300))
    ours = intervals(scores, 4000)
    for scores_Q, found in zip(scores, ours, strict=True):
        theirs = stats.bootstrap((scores_Q,), np.mean, n_resamples=4000, method="percentile", rng=1)
        assert found.low == pytest.approx(theirs.confidence_interval.low, abs=2e-3)
        assert found.high == pytest.approx(theirs.confidence_interval.high, abs=2e-3)


def test_all_rows_share_the_resampled_queries() -> None:
    scores_Q = np.random.default_rng(1).random(50)
    means_MR = resample(np.stack([scores_Q, scores_Q + 1]), 70)
    np.testing.assert_allclose(means_MR[1] - means_MR[0], 1)
    assert means_MR.shape == (2, 70)
