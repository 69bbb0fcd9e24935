"""A prefix is sliced, then normalised, alike in numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.vectors.matryoshka import cut, prefix, split, unit


@given(st.integers(1, 9), st.sampled_from([np.float16, np.float32, np.float64]), st.integers(0, 5))
def test_numpy_and_torch_cut_alike(dim: int, dtype: type, seed: int) -> None:
    x_BD = np.random.default_rng(seed).standard_normal((4, 9)).astype(dtype)
    x_BD[2] = 0
    cut_BM = cut(x_BD, dim)
    assert cut_BM.dtype == dtype
    assert cut_BM.shape == (4, dim)
    np.testing.assert_allclose(np.linalg.norm(cut_BM[[0, 1, 3]].astype(np.float64), axis=1), 1, atol=2e-3)
    assert not cut_BM[2].any()
    np.testing.assert_allclose(cut(torch.from_numpy(x_BD), dim).numpy(), cut_BM, atol=1e-3)


@given(st.lists(st.integers(1, 12), min_size=1, unique=True).map(sorted))
def test_the_blocks_up_to_a_dim_are_its_prefix(dims: list[int]) -> None:
    x_BD = np.arange(24.0).reshape(2, 12)
    blocks = list(split(x_BD, dims))
    for number, dim in enumerate(dims, start=1):
        np.testing.assert_array_equal(np.concatenate(blocks[:number], axis=1), prefix(x_BD, dim))


def test_one_vector_is_cut_as_a_row_is() -> None:
    x_BD = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    np.testing.assert_array_equal(cut(x_BD[1], 4), cut(x_BD, 4)[1])
    np.testing.assert_allclose(unit(x_BD), cut(x_BD, 8))


@pytest.mark.parametrize("dim", [0, -1, 9])
def test_a_dim_outside_the_vector_is_refused(dim: int) -> None:
    for x_BD in (np.ones((2, 8)), torch.ones(2, 8)):
        with pytest.raises(ValueError, match=f"8 dims to {dim}; allowed: 1 to 8"):
            cut(x_BD, dim)
