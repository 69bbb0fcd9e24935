from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.explore.slider_search import SliderSearch
from pipelines.tables.rows import scan_vectors
from pipelines.vectors.matryoshka import unit
from tests.support.small_tables import LADDER, vectors

_ROWS = 300


@pytest.fixture
def search(make_table):
    x = vectors(_ROWS, 1)
    x[7] = x[3]  # a tie
    return SliderSearch(make_table(x[:200], x[200:]), 1 << 30), unit(x.astype(np.float32))


def test_every_setting_finds_what_numpy_finds(search):
    found, x_ND = search

    @settings(max_examples=60)
    @given(
        dim=st.sampled_from(LADDER),
        candidates=st.integers(1, 400),
        k=st.integers(1, 40),
        seed=st.integers(0, 50),
        share=st.sampled_from([None, 0.0, 0.02, 0.5]),
    )
    def check(dim, candidates, k, seed, share):
        rng = np.random.default_rng(seed)
        query_D = unit(vectors(1, 1000 + seed)[0].astype(np.float32))
        mask = None if share is None else rng.random(_ROWS) < share
        live = np.arange(_ROWS) if mask is None else np.flatnonzero(mask)
        truth = found.exact(query_D, k, mask)
        answer = found.find(query_D, dim, candidates, truth, mask)
        prefixes = x_ND[live, :dim] / np.linalg.norm(x_ND[live, :dim], axis=1, keepdims=True)
        coarse, full = prefixes @ query_D[:dim], x_ND[live] @ query_D
        kept = np.argsort(-coarse, kind="stable")[: max(candidates, min(k, len(live)))]
        best = np.sort(full[kept])[::-1][:k]
        exact = np.sort(full)[::-1][:k]
        np.testing.assert_allclose(answer.scores_K, best, atol=2e-6)
        kth = exact[-1:]
        ties_that_count = len(exact) - (exact > kth + 1e-6).sum()
        right = (best > kth + 1e-6).sum() + min((abs(best - kth) <= 1e-6).sum(), ties_that_count)
        assert answer.recall == pytest.approx(right / len(exact) if len(exact) else 1.0)
        assert answer.is_right_K.sum() == right
        second = 0 if dim == LADDER[-1] else len(kept) * LADDER[-1]
        assert answer.bytes_read == (2 * (len(live) * dim + second) if len(live) else 0)

    check()


def test_a_table_beyond_the_memory_is_sampled(make_table):
    x = vectors(_ROWS, 1)
    table = make_table(x[:100], x[100:])
    fit = 50
    search = SliderSearch(table, fit * 4 * (LADDER[-1] + len(LADDER)))
    assert search.is_sample
    assert search.rows == fit
    whole = {
        int(row): vector
        for batch, x_BD in scan_vectors(table.dataset, ["_rowid"])
        for row, vector in zip(batch["_rowid"].to_pylist(), x_BD, strict=True)
    }
    held = [row for row in whole if search.vector(row) is not None]
    assert len(held) == fit
    assert min(held) < 100 < max(held)
    for row in held:
        np.testing.assert_array_equal(search.vector(row), unit(whole[row][None].astype(np.float32))[0])
