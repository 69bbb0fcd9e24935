"""The linear probe finds what scikit-learn's logistic regression finds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipelines.evaluation.probe import fit_probe


def _digits() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return digits.data.astype(np.float32), digits.target.astype(np.int64)


@pytest.mark.parametrize("rows_at_once", [1 << 16, 100])
def test_it_is_scikit_learns_at_the_same_penalty(rows_at_once: int) -> None:
    x, y = _digits()
    train, test = slice(None, 1000), slice(1000, None)
    penalty = 1e-2
    known = x[:, x[train].std(axis=0) > 0]
    scale = StandardScaler().fit(known[train])
    theirs = LogisticRegression(C=1 / (1000 * penalty), max_iter=1000, tol=1e-8)
    theirs.fit(scale.transform(known[train]), y[train])
    expected = theirs.predict_proba(scale.transform(known[test]))
    found = fit_probe(x[train], y[train], 10, penalty, rows_at_once=rows_at_once).probabilities(x[test])
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_class_without_rows_is_never_predicted() -> None:
    x, y = _digits()
    known = y != 3
    found = fit_probe(x[known], y[known], 10).probabilities(x)
    assert not (found.argmax(axis=1) == 3).any()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_columns_of_any_scale_are_fitted_alike() -> None:
    x, y = _digits()
    stretched = x * np.geomspace(1e-3, 1e3, x.shape[1], dtype=np.float32) + 5
    plain = fit_probe(x[:1000], y[:1000], 10, 1e-2).probabilities(x[1000:]).argmax(axis=1)
    scaled = fit_probe(stretched[:1000], y[:1000], 10, 1e-2).probabilities(stretched[1000:]).argmax(axis=1)
    assert (plain == scaled).mean() > 0.98
