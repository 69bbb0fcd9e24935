from __future__ import annotations

import numpy as np
import pytest

from pipelines.funnel.ground_truth import GroundTruth, exact_neighbours, recall_interval
from tests.support.funnel_tables import vectors


def test_neighbours_are_those_of_numpy_without_the_querys_own_row() -> None:
    x_ND = vectors(600).astype(np.float32)
    blocks = ((np.arange(at, at + 200), x_ND[at : at + 200]) for at in (0, 200, 400))
    truth = exact_neighbours(blocks, x_ND[:20], 5, own_ids_Q=np.arange(20))
    cosines_QN = x_ND[:20] @ x_ND.T
    np.fill_diagonal(cosines_QN, -1)
    expected_QK = np.argsort(-cosines_QN, axis=1)[:, :5]
    assert (truth.ids_QT[:, :5] == expected_QK).mean() > 0.98
    assert (truth.ids_QT[:, :1] == expected_QK[:, :1]).mean() > 0.9


def test_any_row_that_ties_with_the_last_neighbour_counts() -> None:
    x_ND = np.eye(8, dtype=np.float32)[[0, 1, 1, 1, 2]]
    truth = exact_neighbours([(np.arange(5), x_ND)], np.float32([[1, 0.5, 0, 0, 0, 0, 0, 0]]), 2)
    assert truth.counts_Q.tolist() == [4]
    for tied in (1, 2, 3):
        assert truth.recall(truth.ranks(np.array([[0, tied]])), 2).tolist() == [1.0]
    assert truth.recall(truth.ranks(np.array([[0, 4]])), 2).tolist() == [0.5]


def test_recall_by_number_of_candidates() -> None:
    truth = GroundTruth(2, np.array([[5, 6]]), np.array([2]))
    ranks_QT = truth.ranks(np.array([[9, 5, 8, 6]]))
    assert ranks_QT.tolist() == [[1, 3]]
    assert [truth.recall(ranks_QT, keep)[0] for keep in (1, 2, 3, 4)] == [0, 0.5, 0.5, 1]
    assert truth.recall(ranks_QT, np.array([4])).tolist() == [1]


def test_the_interval_is_wilsons_where_queries_are_all_or_nothing_and_narrower_where_they_agree() -> None:
    one_each = np.repeat([1.0, 0.0], [90, 10])
    mean, low, high = recall_interval(one_each)
    assert (mean, low, high) == pytest.approx((0.9, 0.8256, 0.9448), abs=2e-3)  # Wilson's, 90 of 100
    agreeing = np.tile([0.8, 1.0], 50)
    assert recall_interval(agreeing)[1] > low
    assert recall_interval(np.ones(100)) == pytest.approx((1, 0.963, 1), abs=1e-3)
