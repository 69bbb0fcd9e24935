"""The linear probe finds what scikit-learn's logistic regression finds, however the vectors are rotated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from pipelines.evaluation.probe import fit_probe
from pipelines.vectors.rotation import fit_pca


def _digits() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return digits.data.astype(np.float32), digits.target.astype(np.int64)


@pytest.mark.parametrize("rows_at_once", [1 << 16, 100])
def test_it_is_scikit_learns_at_the_same_penalty(rows_at_once: int) -> None:
    x, y = _digits()
    train, test = slice(None, 500), slice(500, None)
    penalty = 1e-2
    mean, spread = x[train].mean(axis=0), np.sqrt(x[train].var(axis=0).mean())
    theirs = LogisticRegression(C=1 / (500 * penalty), max_iter=1000, tol=1e-6)
    theirs.fit((x[train] - mean) / spread, y[train])
    expected = theirs.predict_proba((x[test] - mean) / spread)
    found = fit_probe(x[train], y[train], 10, penalty, rows_at_once=rows_at_once).probabilities(x[test])
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_class_without_rows_is_never_predicted() -> None:
    x, y = _digits()
    known = y != 3
    found = fit_probe(x[known], y[known], 10).probabilities(x)
    assert not (found.argmax(axis=1) == 3).any()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**16), st.integers(2, 40), st.floats(0, 3), st.floats(-3, 3), st.integers(2, 5))
def test_a_rotation_a_shift_and_a_scale_change_nothing(
    seed: int, width: int, decay: float, scale: float, classes: int
) -> None:
    """For every spectrum, also one whose late axes hold almost nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=300)
    x = rng.standard_normal((300, width)) * (np.arange(width) + 1.0) ** -decay
    x[:, 0] += labels
    rotation = special_ortho_group.rvs(width, random_state=rng)
    turned = (x @ rotation.T + rng.standard_normal(width)) * 10**scale
    sides = [(one[:200].astype(np.float32), one[200:].astype(np.float32)) for one in (x, turned)]
    plain, changed = (fit_probe(a, labels[:200], classes).probabilities(b) for a, b in sides)
    np.testing.assert_allclose(plain, changed, atol=5e-3)


def test_axes_of_almost_no_variance_do_not_drown_the_others() -> None:
    """Vectors of three meaningful directions among 400, few rows, rotated to their principal axes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=700)
    x = rng.standard_normal((700, 400)) * 1e-3
    x[:, :3] += rng.standard_normal((4, 3))[labels] + 0.2 * rng.standard_normal((700, 3))
    x = (x @ special_ortho_group.rvs(400, random_state=rng).T).astype(np.float32)
    turned = fit_pca([x[:200]]).apply(x)
    for one in (x, turned):
        found = fit_probe(one[:200], labels[:200], 4).probabilities(one[200:]).argmax(axis=1)
        assert (found == labels[200:]).mean() > 0.95


def test_rows_that_are_all_alike_give_every_class_its_share() -> None:
    found = fit_probe(np.ones((4, 3), np.float32), np.array([0, 0, 0, 1]), 2).probabilities(
        np.zeros((1, 3), np.float32)
    )
    np.testing.assert_allclose(found, [[0.75, 0.25]], atol=1e-3)
