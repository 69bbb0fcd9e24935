"""The proof mode against brute force, on vectors of every shape that hypothesis can think of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.funnel.proof import ProofIndex
from pipelines.vectors.matryoshka import unit


@settings(max_examples=150)
@example(seed=0, rows=1, width=8, decay=0.0, copies=1, k=1)  # no row has a direction
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 300),
    width=st.sampled_from([8, 24, 64]),
    decay=st.floats(0, 3),
    copies=st.integers(0, 5),
    k=st.integers(1, 12),
)
def test_it_finds_what_brute_force_finds(seed: int, rows: int, width: int, decay: float, copies: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    x_ND = rng.standard_normal((rows, width)) * np.arange(1, width + 1) ** -decay
    x_ND[rng.integers(0, rows, copies)] = x_ND[0]  # ties
    x_ND[rng.integers(0, rows, copies)] = 0  # no direction
    x_ND = unit(x_ND.astype(np.float32))
    query_D = unit(rng.standard_normal(width).astype(np.float32))
    found = ProofIndex(x_ND, dims=[width // 4, width // 2]).search(query_D, k)
    scores_N = x_ND @ query_D
    best = np.sort(scores_N)[::-1][:k]
    np.testing.assert_allclose(found.scores_K, best, atol=1e-6)
    np.testing.assert_allclose(found.scores_K, scores_N[found.positions_K], atol=1e-6)
    assert len(set(found.positions_K.tolist())) == min(k, rows)


def test_it_reads_few_vectors_where_prefixes_tell_them_apart() -> None:
    rng = np.random.default_rng(0)
    x_ND = unit((rng.standard_normal((20_000, 64)) * np.arange(1, 65) ** -2.0).astype(np.float32))
    found = ProofIndex(x_ND, dims=[16, 32]).search(x_ND[7], 10)
    shares = dict(found.touched)
    assert shares[16] == 1
    assert shares[64] < 0.01
    assert found.positions_K[0] == 7
    assert found.scores_K[0] == pytest.approx(1, abs=1e-6)
