from __future__ import annotations

import numpy as np
import pytest

from pipelines.funnel.ground_truth import GroundTruth, exact_neighbours, recall_interval
from pipelines.vectors.matryoshka import unit
from schemas.errors import TableError
from tests.support.funnel_tables import vectors


def test_neighbours_are_those_of_numpy_without_the_querys_own_row() -> None:
    x_ND = vectors(600).astype(np.float32)
    blocks = [(np.arange(at, at + 200), x_ND[at : at + 200]) for at in (0, 200, 400)]
    truths = exact_neighbours(lambda: blocks, unit(x_ND[:20]), [5, 50], own_ids_Q=np.arange(20))
    cosines_QN = x_ND[:20] @ x_ND.T
    np.fill_diagonal(cosines_QN, -1)
    for k, truth in truths.items():
        expected_QK = np.argsort(-cosines_QN, axis=1)[:, :k]
        assert truth.recall(truth.ranks(expected_QK), k).tolist() == [1] * 20
        found = [len(better) + len(ties) for better, ties in zip(truth.better_Q, truth.ties_Q, strict=True)]
        assert np.mean(found) == pytest.approx(k, abs=0.2)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_rows_without_a_direction_are_counted_and_refused(bad: float) -> None:
    x_ND = vectors(100)
    x_ND[[3, 70]] = bad
    x_ND[5] = 0
    x_ND[5, 1] = 6e-5  # short, and a direction all the same
    with pytest.raises(TableError, match=r"^2 rows have vectors without a direction"):
        exact_neighbours(lambda: [(np.arange(100), x_ND)], unit(x_ND[:2].astype(np.float32)), [5])


@pytest.mark.parametrize("copies", [3, 4_000])
def test_any_row_that_ties_with_the_last_neighbour_counts(copies: int) -> None:
    x_ND = np.eye(8, dtype=np.float32)[[0, *[1] * copies, 2]]
    blocks = [(np.arange(len(part)) + first, part) for first, part in ((0, x_ND[:2]), (2, x_ND[2:]))]
    truth = exact_neighbours(lambda: blocks, unit(np.float32([[1, 0.5, 0, 0, 0, 0, 0, 0]])), [2])[2]
    assert truth.better_Q[0].tolist() == [0]
    assert truth.ties_Q[0].tolist() == list(range(1, copies + 1))
    for tied in (1, 2, copies):
        assert truth.recall(truth.ranks(np.array([[0, tied]])), 2).tolist() == [1.0]
    assert truth.recall(truth.ranks(np.array([[0, copies + 1]])), 2).tolist() == [0.5]
    assert truth.recall(truth.ranks(np.array([[1, 2]])), 2).tolist() == [0.5]  # a tie does not replace a better row


def test_recall_by_number_of_candidates() -> None:
    truth = GroundTruth(2, [np.array([5])], [np.array([6])])
    ranks_QK = truth.ranks(np.array([[9, 5, 8, 6]]))
    assert ranks_QK.tolist() == [[1, 3]]
    assert [truth.recall(ranks_QK, keep)[0] for keep in (1, 2, 3, 4)] == [0, 0.5, 0.5, 1]
    assert truth.recall(ranks_QK, np.array([4])).tolist() == [1]


def test_the_interval_is_wilsons_where_queries_are_all_or_nothing_and_narrower_where_they_agree() -> None:
    one_each = np.repeat([1.0, 0.0], [90, 10])
    mean, low, high = recall_interval(one_each)
    assert (mean, low, high) == pytest.approx((0.9, 0.8256, 0.9448), abs=2e-3)  # Wilson's, 90 of 100
    agreeing = np.tile([0.8, 1.0], 50)
    assert recall_interval(agreeing)[1] > low
    assert recall_interval(np.ones(100)) == pytest.approx((1, 0.963, 1), abs=1e-3)
