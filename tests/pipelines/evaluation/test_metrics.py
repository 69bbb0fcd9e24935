"""Metrics equal loops over their definitions, and scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from pipelines.evaluation.metrics import NOTHING, Judgements, Labels, average_precision, ndcg


def _naive_average_precision(right: list[bool], k: int) -> float:
    found, total = 0, 0.0
    for rank, is_right in enumerate(right[:k], 1):
        if is_right:
            found += 1
            total += found / rank
    return total / k


@settings(max_examples=50)
@given(st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=5), st.integers(1, 12))
def test_average_precision_is_that_of_a_loop(right: list[list[bool]], k: int) -> None:
    expected = [_naive_average_precision(row, k) for row in right]
    np.testing.assert_allclose(average_precision(np.array(right), k), expected)


def test_average_precision_divides_by_k_even_where_less_could_be_found() -> None:
    right = np.array([[True] + [False] * 9, [True] * 10])
    np.testing.assert_allclose(average_precision(right, 10), [0.1, 1.0])


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_ndcg_is_that_of_scikit_learn_and_lies_between_0_and_1(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    gains = rng.integers(0, 4, (5, 12)).astype(float)
    gains[:, 0] = 1 + rng.integers(0, 3, 5)
    found = np.take_along_axis(gains, np.stack([rng.permutation(12) for _ in range(5)]), axis=1)
    ideal = -np.sort(-gains, axis=1)[:, :k]
    ours = ndcg(found, ideal, k)
    falling = np.tile(np.arange(12, 0, -1.0), (5, 1))
    assert ours.mean() == pytest.approx(ndcg_score(found, falling, k=k))
    assert (ours >= 0).all()
    assert (ours <= 1 + 1e-12).all()


def test_an_ideal_order_has_ndcg_1_and_a_query_without_a_relevant_document_0() -> None:
    gains = np.array([[3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(ndcg(gains, gains, 3), [1.0, 0.0])


DOCUMENTS = ["d0", "d1", "d2", "d3", "q1"]
JUDGED = {"q0": {"d1": 2, "d3": 1, "gone": 1, "d0": 0}, "q1": {"d2": 1}}


@pytest.fixture
def judgements() -> Judgements:
    return Judgements.of(JUDGED, ["q0", "q1"], DOCUMENTS, k=3, recall_ks=(1, 3))


def test_judgements_are_followed_document_by_document(judgements: Judgements) -> None:
    found = np.array([[0, 1, 3, 2], [2, 0, 1, 3]])
    scores = judgements.score(found)
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    np.testing.assert_allclose(scores["nDCG@3"], [(2 / math.log2(3) + 1 / math.log2(4)) / ideal, 1.0])
    # Of three documents that are worth something to q0 one is not in the database, and counts as missed.
    np.testing.assert_allclose(scores["recall@1"], [0.0, 1.0])
    np.testing.assert_allclose(scores["recall@3"], [2 / 3, 1.0])


def test_a_query_is_no_answer_to_itself(judgements: Judgements) -> None:
    assert judgements.depth == 4
    own_first = np.array([[1, 3, 0, 2], [4, 2, 0, 1]])
    scores = judgements.score(own_first)
    assert scores["recall@1"][1] == 1.0
    assert scores["nDCG@3"][1] == 1.0


def test_what_was_not_found_is_worth_nothing(judgements: Judgements) -> None:
    nothing = np.full((2, 4), NOTHING)
    assert all((scores == 0).all() for scores in judgements.score(nothing).values())
    labels = Labels(np.array([0, 1]), np.array([1, 1]), k=2)
    assert not labels.right(np.full((2, 2), NOTHING)).any()


def test_judgements_of_nothing_in_the_database_score_0() -> None:
    nowhere = Judgements.of({"q": {"gone": 1}}, ["q"], DOCUMENTS)
    assert all((scores == 0).all() for scores in nowhere.score(np.array([[0, 1, 2]])).values())


def test_labels_give_nearest_neighbour_accuracy_precision_and_recall() -> None:
    labels = Labels(np.array([0, 0, 1, 1]), np.array([0, 1]), k=2, recall_ks=(1, 3))
    assert labels.depth == 3
    scores = labels.score(np.array([[0, 2, 1], [0, 1, 2]]))
    np.testing.assert_allclose(scores["1-NN"], [1, 0])
    np.testing.assert_allclose(scores["mAP@2"], [0.5, 0])
    np.testing.assert_allclose(scores["recall@1"], [1, 0])
    np.testing.assert_allclose(scores["recall@3"], [1, 1])


def test_the_truth_of_some_queries_is_theirs(judgements: Judgements) -> None:
    found = np.array([[0, 1, 3, 2], [2, 0, 1, 3]])
    alone = judgements.of_queries(np.array([1])).score(found[1:])
    for metric, scores in judgements.score(found).items():
        np.testing.assert_allclose(alone[metric], scores[1:])
    labels = Labels(np.array([0, 0, 1, 1]), np.array([0, 1]), k=2)
    np.testing.assert_array_equal(labels.of_queries(np.array([1])).queries_Q, [1])


@given(st.integers(0, 99), st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.booleans())
def test_a_measure_is_there_if_and_only_if_enough_neighbours_were_found(
    seed: int, rows: int, found: int, k: int, finds_itself: bool
) -> None:
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(rows) for _ in range(3)])
    names = [f"d{row}" for row in range(rows)]
    queries = [names[0] if finds_itself else "q0", "q1", "q2"]
    judged = {query: {names[rng.integers(rows)]: 1} for query in queries}
    labels = Labels(rng.integers(2, size=rows), rng.integers(2, size=3), 1, (k,))
    for truth in (labels, Judgements.of(judged, queries, names, 1, (k,))):
        part, whole = truth.score(order[:, :found]), truth.score(order)
        spare = int(finds_itself and isinstance(truth, Judgements))
        assert (f"recall@{k}" in part) == (min(found, rows) >= min(k + spare, rows))
        for metric, scores in part.items():
            np.testing.assert_array_equal(scores, whole[metric])
