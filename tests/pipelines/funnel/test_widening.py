from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.funnel import adaptive_retrieval
from pipelines.funnel.widening import are_close, expected_misses, usual_doubt
from pipelines.vectors.matryoshka import cut, unit
from tests.support.funnel_tables import PREFIX, ROWS, vectors


def test_candidates_are_close_where_they_do_not_fall_off() -> None:
    falling, flat = np.linspace(1, 0, 40), np.linspace(0.5, 0.45, 40)
    copies, few = np.full(40, 0.5), np.r_[np.linspace(1, 0.9, 12), np.full(28, -np.inf)]
    scores_BK = np.array([falling, flat, copies, few], np.float32)
    plan = adaptive_retrieval(16, 64, keep=40).model_copy(update={"reach": (0.1, 0.9)})
    assert are_close(scores_BK, plan, False).tolist() == [False, True, False, False]
    assert are_close(scores_BK, plan, np.array([True, True, True, True])).tolist() == [True, True, False, False]
    assert not are_close(scores_BK, plan.model_copy(update={"reach": None}), True).any()


def missed(query_D: npt.NDArray[np.float32], x_ND: npt.NDArray[np.float32], keep: int, k: int) -> tuple[float, float]:
    """The estimate from `keep` candidates by the prefix, and the true share of the k best that these lack."""
    coarse_N, fine_N = cut(x_ND, PREFIX) @ cut(query_D, PREFIX), x_ND @ query_D
    found = np.argsort(-coarse_N)[:keep]
    lacking = 1 - np.isin(np.argsort(-fine_N)[:k], found).mean()
    return expected_misses(coarse_N[found], fine_N[found], k), float(lacking)


def test_misses_are_expected_where_they_are() -> None:
    x_ND, query_QD = (unit(vectors(*drawn).astype(np.float32)) for drawn in ((ROWS,), (100, 5)))
    ordinary = np.array([missed(query_D, x_ND, 100, 10) for query_D in query_QD])
    gone = [x_ND[np.argsort(-(x_ND @ query_D))[200:]] for query_D in query_QD]
    in_gap = np.array([missed(query_D, left_ND, 100, 10) for query_D, left_ND in zip(query_QD, gone, strict=True)])
    assert in_gap[:, 1].mean() > ordinary[:, 1].mean() + 0.1
    assert (in_gap[:, 0] > usual_doubt(ordinary[:, 0], 0.95)).mean() > 0.5
    both = np.concatenate([ordinary, in_gap])
    assert np.corrcoef(np.argsort(np.argsort(both[:, 0])), both[:, 1])[0, 1] > 0.5
    for keep in (20, 400):
        few = [missed(query_D, x_ND, keep, 10)[0] for query_D in query_QD]
        assert np.median(few) > np.median(ordinary[:, 0]) if keep < 100 else np.median(few) < np.median(ordinary[:, 0])


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (np.full(40, 0.5), np.full(40, 0.5)),
        (np.linspace(1, 0, 12), np.linspace(1, 0, 12)),
        (np.array([]), np.array([])),
        (np.linspace(1, 0, 40), np.full(40, 0.5)),
        (np.linspace(1, 0, 40), np.linspace(0, 1, 40)),
        (np.r_[1, np.full(39, 0.999999)], np.r_[-1, np.full(39, 1.0)]),
        (np.linspace(1, 0.9999, 400), np.tile([1.0, -1.0], 200)),
    ],
)
def test_misses_of_strange_scores_are_a_number(coarse: npt.NDArray[np.float64], fine: npt.NDArray[np.float64]) -> None:
    misses = expected_misses(coarse.astype(np.float32), fine.astype(np.float32), 10)
    assert 0 <= misses < np.inf
    assert len(coarse) > 13 or misses == 0


def test_the_usual_doubt_is_no_less_than_the_target_allows() -> None:
    assert usual_doubt(np.zeros(50), 0.9) == pytest.approx(0.1)
    assert usual_doubt(np.linspace(0, 10, 101), 0.9) == pytest.approx(8.0)  # a fifth may be searched more widely
    assert usual_doubt(np.r_[np.zeros(85), np.full(15, 0.5)], 0.9) == pytest.approx(0.25)
