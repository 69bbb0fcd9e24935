"""A prefix is sliced, then normalised, alike in numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.vectors.matryoshka import are_unit, cut, prefix, split, unit
from schemas.errors import DimError


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
        with pytest.raises(DimError, match=f"8 dims to {dim}; allowed: 1 to 8"):
            cut(x_BD, dim)


@given(
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.floats(-1, 1),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_rows_of_any_length_become_unit_rows(dtype: type, place: float, width: int, dim: int, seed: int) -> None:
    """From the smallest subnormal to the largest finite number, alone in its row and among smaller ones."""
    limits = np.finfo(dtype)
    low, high = np.log2(float(limits.smallest_subnormal)), np.log2(float(limits.max))
    size = float(limits.max) if place == 1 else 2.0 ** float(low + (high - 1 - low) * (place + 1) / 2)
    rng = np.random.default_rng(seed)
    numbers_BD = rng.uniform(-1, 1, (3, max(width, dim)))
    numbers_BD[:, 0] = 1
    numbers_BD[1] *= 10.0 ** -np.arange(numbers_BD.shape[1])
    x_BD = (numbers_BD * size).astype(dtype)
    x_BD[0, 0] = x_BD[0, 0] or limits.smallest_subnormal
    exact_BM = x_BD[:, :dim].astype(np.longdouble)
    exact_BM /= np.maximum(np.abs(exact_BM).max(axis=1, keepdims=True), np.finfo(np.longdouble).tiny)
    lengths_B1 = np.sqrt((exact_BM**2).sum(axis=1, keepdims=True))
    exact_BM = exact_BM / np.where(lengths_B1 == 0, 1, lengths_B1)
    for found_BM in (cut(x_BD, dim), cut(torch.from_numpy(x_BD), dim).numpy()):
        assert found_BM.dtype == dtype
        np.testing.assert_allclose(found_BM.astype(np.float64), exact_BM.astype(np.float64), atol=3e-4, rtol=1e-3)
        np.testing.assert_array_equal(are_unit(found_BM), exact_BM.any(axis=1))
        np.testing.assert_array_equal(are_unit(found_BM.astype(np.float16)), exact_BM.any(axis=1))


def test_a_row_without_direction_is_not_given_one() -> None:
    x_BD = np.array([[0, 0], [np.inf, 1], [np.nan, 1], [-np.inf, np.inf]], np.float32)
    for found_BD in (unit(x_BD), unit(torch.from_numpy(x_BD)).numpy()):
        assert not found_BD[0].any()
        assert np.isnan(found_BD[1:]).all()
        assert not are_unit(found_BD).any()


def test_the_gradient_of_a_unit_row_is_that_of_its_definition() -> None:
    x_BD = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x_BD,))
