"""Rotations: exact whatever the blocks, orthonormal, with axes in falling order of variance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.vectors.rotation import Moments, fit_pca
from tests.support.small_tables import off_axis

WIDTH = 24


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 3))
def test_the_moments_of_parts_add_up_to_those_of_the_whole(sizes: list[int], seed: int) -> None:
    x_BD = off_axis(sum(sizes) + 2, seed=seed)
    blocks = np.split(x_BD, np.cumsum(sizes))
    first, *others = (Moments.of([block]) for block in blocks)
    whole, streamed = sum(others, first), Moments.of(blocks)
    for moments in (whole, streamed):
        assert moments.count == len(x_BD)
        np.testing.assert_allclose(moments.moment_DD, x_BD.T.astype(np.float64) @ x_BD, atol=1e-9)
        np.testing.assert_allclose(moments.total_D, x_BD.sum(axis=0, dtype=np.float64), atol=1e-9)


def test_the_axes_are_those_of_the_covariance_in_falling_order() -> None:
    x_BD = off_axis(4_000)
    rotation = fit_pca(np.array_split(x_BD, 7))
    variances = np.var(rotation.apply(x_BD).astype(np.float64), axis=0)
    assert np.all(np.diff(variances) < 1e-9)
    np.testing.assert_allclose(
        variances, np.linalg.eigvalsh(np.cov(x_BD.T.astype(np.float64), bias=True))[::-1], atol=1e-7
    )
    np.testing.assert_allclose(rotation.explained_D, variances / variances.sum(), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 500])
def test_scores_at_full_width_are_unchanged_even_with_fewer_rows_than_dims(rows: int) -> None:
    x_BD = off_axis(500)
    rotation = fit_pca([x_BD[:rows]])
    np.testing.assert_allclose(rotation.matrix_DD @ rotation.matrix_DD.T, np.eye(WIDTH), atol=1e-5)
    turned = rotation.apply(x_BD)
    np.testing.assert_allclose(turned @ turned.T, x_BD @ x_BD.T, atol=1e-5)


def test_the_same_vectors_give_the_same_rotation_in_whatever_blocks() -> None:
    x_BD = off_axis(300)
    one, other = fit_pca([x_BD]), fit_pca([x_BD[:100], x_BD[100:].astype(np.float64)])
    np.testing.assert_allclose(one.matrix_DD, other.matrix_DD, atol=1e-5)
    assert one.fingerprint == fit_pca([x_BD]).fingerprint


def test_no_rows_give_no_rotation() -> None:
    for blocks in ([], [np.empty((0, 4), np.float32)]):
        with pytest.raises(ValueError, match="no vectors"):
            fit_pca(blocks)
