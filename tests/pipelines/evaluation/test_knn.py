"""Neighbours, recall, hit rate and accuracy by prefix equal plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation import hits_by_dim, label_accuracy_by_dim, neighbours, recall_by_dim
from pipelines.vectors.matryoshka import cut


def _random(seed: int, rows: int, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([4, 8, 16]), st.integers(1, 10))
def test_neighbours_are_those_of_a_plain_sort(seed: int, dim: int, k: int) -> None:
    database_ND, queries_QD = _random(seed, 300), _random(seed + 1, 7)
    scores = cut(queries_QD, dim) @ cut(database_ND, dim).T
    found = neighbours(database_ND, queries_QD, dim, k)
    expected = np.sort(scores, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(np.take_along_axis(scores, found, axis=1), expected, atol=1e-6)


def test_a_row_is_not_its_own_neighbour_whichever_block_it_is_in() -> None:
    x_ND = _random(0, 600)
    assert (neighbours(x_ND, x_ND, 16, 1)[:, 0] == np.arange(600)).all()
    assert not (neighbours(x_ND, x_ND, 16, 5, skip_self=True) == np.arange(600)[:, None]).any()


def test_recall_is_one_at_full_width_and_counts_overlap_below() -> None:
    database_ND, queries_QD = _random(2, 200), _random(3, 20)
    half, full = recall_by_dim(database_ND, queries_QD, (8, 16), k=10)
    assert full == 1.0
    exact, cheap = neighbours(database_ND, queries_QD, 16, 10), neighbours(database_ND, queries_QD, 8, 10)
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, cheap, strict=True)])
    assert half == pytest.approx(by_hand)


def test_a_known_item_is_a_hit_when_it_is_among_the_first_k() -> None:
    database_ND = np.eye(4, dtype=np.float32)
    queries_QD = np.array([[1, 0, 0, 0], [0.9, 1, 0, 0]], np.float32)
    assert hits_by_dim(database_ND, queries_QD, np.array([0, 0]), (4,), k=1) == [0.5]
    assert hits_by_dim(database_ND, queries_QD, np.array([0, 0]), (4,), k=2) == [1.0]


def test_labels_are_compared_with_the_nearest_other_row() -> None:
    x_ND = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.2, 1]], np.float32)
    assert label_accuracy_by_dim(x_ND, np.array(["a", "a", "b", "b", "b"]), (2,)) == [1.0]
    assert label_accuracy_by_dim(x_ND, np.array(["a", "b", "b", "b", "b"]), (2,)) == [0.6]
