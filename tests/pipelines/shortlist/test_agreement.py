from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shortlist.agreement import agreement
from schemas.errors import TableError


def as_ids(lists: np.ndarray) -> pa.Array:
    return pa.array([f"r{i}" for i in lists.ravel()])


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**31))
def test_overlap_is_that_of_sets_at_every_rank(queries, k, seed):
    rng = np.random.default_rng(seed)
    full = np.stack([rng.permutation(20)[:k] for _ in range(queries)])
    short = np.stack([rng.permutation(20)[:k] for _ in range(queries)])
    found = agreement({8: as_ids(short), 32: as_ids(full)}, queries, resamples=10)
    for rank in range(1, k + 1):
        expected = np.mean([len(set(a[:rank]) & set(b[:rank])) / rank for a, b in zip(short, full, strict=True)])
        assert found.overlap_LK[0, rank - 1] == pytest.approx(expected)
    assert (found.overlap_LK[1] == 1).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    full = np.tile(np.arange(10), (200, 1))
    covered = 0
    for seed in range(100):
        is_kept = rng.random(full.shape) < 0.7  # so the true overlap at rank 10 is .7
        short = np.where(is_kept, full, full + 100)
        found = agreement({8: as_ids(short), 32: as_ids(full)}, 200, resamples=300, seed=seed)
        covered += found.low_LK[0, -1] <= 0.7 <= found.high_LK[0, -1]
    assert 88 <= covered <= 100


def test_pairing_sees_a_small_gain_that_separate_intervals_would_hide():
    rng = np.random.default_rng(2)
    full = np.tile(np.arange(100), (100, 1))
    level = rng.random((100, 1))  # queries differ a lot, dims little
    noise = rng.random(full.shape)
    lists = {dim: np.where(noise < level + gain, full, full + 1000) for dim, gain in ((8, 0.0), (16, 0.03))}
    found = agreement({dim: as_ids(x) for dim, x in lists.items()} | {32: as_ids(full)}, 100)
    assert found.low_LK[1, -1] < found.high_LK[0, -1]
    assert found.step_low_L[1] > 0


def test_queries_with_fewer_rows_than_k_count_by_what_there_is():
    full = pa.array(["a", "b", None, None])
    found = agreement({8: pa.array(["a", "c", None, None]), 32: full}, 1)
    assert found.overlap_LK[0].tolist() == [1.0, 0.5, 0.5, 0.5]


def test_the_least_dim_that_reaches_a_target():
    full = np.tile(np.arange(10), (50, 1))
    half = np.where(np.arange(10) < 5, full, full + 100)
    found = agreement({8: as_ids(full + 100), 16: as_ids(half), 32: as_ids(full)}, 50)
    assert [found.least_dim(t) for t in (0.0, 0.5, 0.51)] == [8, 16, 32]
    assert found.least_dim(0.9, k=5) == 16
    assert found.to_table().num_rows == 30


def test_the_plot_is_drawn(tmp_path):
    full = np.tile(np.arange(10), (5, 1))
    agreement({8: as_ids(full), 32: as_ids(full)}, 5).plot(tmp_path / "agreement.svg")
    assert "overlap with 32 dims" in (tmp_path / "agreement.svg").read_text()


def test_nothing_to_compare_is_refused():
    with pytest.raises(TableError, match="no shortlists"):
        agreement({}, 0)
