"""Tell which questions need more candidates than the plan keeps.

Where the nearest rows of a question were deleted or filtered out, or where it lies far from all rows, the candidates of
a first stage hardly differ, and the plan's number of them misses many of the best rows. Such questions are known by
their scores alone, so nothing needs to know what is gone. Owns the two checks: by the scores of two stages, where a
search has both (in the lake), and by those of the last one.

Shapes: B queries, K candidates.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pipelines.vectors.arrays import Floats
from schemas.plans import Plan

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

_SAME_SCORE = 1e-6
_LEAST_OTHERS = 4
# The fit of one stage's scores to the other's is kept within what prefixes of unit vectors can have.
_SLOPES = (0.2, 2.0)
_STEEPEST, _FAR = 3.0, 40.0
# Share of the test queries that count as close. Measured on 25,000 texts: with twice as many, the mean time of a query
# in memory is 2.5 times as long, and questions in a gap find no more.
_CLOSE = 0.05
# Share of the test queries that are searched more widely by their expected misses; and of those that may be, so that
# nobody misses more than this share of the best rows without it. Measured on 30,000 vectors in clusters, whose bound
# was .48: questions whose 300 best rows were erased find .995 of the others instead of .86, and the mean time of other
# questions stays. On 60,000 texts, whose bound is .11, it changes nothing.
_UNSURE, _MOST_UNSURE, _MANY_MISSES = 0.05, 0.2, 0.25


def expected_misses(coarse_K: Floats, fine_K: Floats, k: int) -> float:
    """Estimate how many of the k best rows would be among the next candidates, if as many again were asked for.

    The candidates show how the number of rows grows as the coarse score falls (exponentially), and how the fine score
    follows the coarse one (linearly, with normal errors). Both are continued below the last candidate: the estimate
    counts the rows there whose fine score would beat the k-th best.

    Args:
        coarse_K: Scores of the candidates at the stage that found them, best first.
        fine_K: Scores of the same candidates at the next stage.
        k: Results per query.

    Returns:
        A share of k, 0 or more; 0 where there are hardly more than k candidates, or where their scores are equal.
    """
    if len(coarse_K) < k + _LEAST_OTHERS:
        return 0.0
    coarse_K, fine_K = coarse_K.astype(np.float64), fine_K.astype(np.float64)
    least, spread = float(coarse_K.min()), float(coarse_K.std())
    if coarse_K.max() - least <= _SAME_SCORE:
        return 0.0
    slope = float(np.cov(coarse_K, fine_K, bias=True)[0, 1]) / spread**2
    slope = min(max(slope, _SLOPES[0]), _SLOPES[1])
    mean = float(fine_K.mean()) - slope * (float(coarse_K.mean()) - least)  # of the fine scores at the last candidate
    error = max(float(np.std(fine_K - slope * coarse_K)), _SAME_SCORE)
    growth = 1 / (float(coarse_K.mean()) - least)
    above = min(max((float(np.sort(fine_K)[-k]) - mean) / error, -_FAR), _FAR)
    steep = min(growth * error / slope, _STEEPEST)
    # The integral of steep * exp(steep * u) * tail(above + u) over u, from 0 to where the rows are twice as many.
    end = math.log(2) / steep
    between = _tail(above - steep) - _tail(above - steep + end)
    beaten = 2 * _tail(above + end) - _tail(above) + math.exp(steep * steep / 2 - steep * above) * between
    return max(0.0, len(coarse_K) * beaten / k)


def gaps(scores_BK: Floats, k: int) -> Floats:
    """Return the distance (B,) from each query's k-th score to that at three quarters of its other finite scores.

    Infinite where there are hardly more than k, or where the scores in between are equal: then nothing is missed.

    Args:
        scores_BK: Cosines of the candidates, best first; -inf where there are fewer.
        k: Results per query.
    """
    counts_B = np.isfinite(scores_BK).sum(axis=1)
    out_B = np.full(len(scores_BK), np.inf, np.float32)
    enough = np.flatnonzero(counts_B >= k + _LEAST_OTHERS)
    if not len(enough):  # numpy checks the bounds of `k - 1` for no rows as well
        return out_B
    far = k - 1 + (counts_B[enough] - k) * 3 // 4
    out_B[enough] = scores_BK[enough, k - 1] - scores_BK[enough, far]
    out_B[out_B <= _SAME_SCORE] = np.inf
    return out_B


def judges_codes(plan: Plan) -> bool:
    """Tell whether `gaps` are taken of the scores that rank the last codes: where their few candidates are reads."""
    return plan.home == "codes" and len(plan.stages) > 2


def are_close(scores_BK: Floats, plan: Plan, is_suspect_B: Mask | bool) -> Mask:
    """Tell for which queries (B,) the candidates lie so close together that a wider search is needed; see `Plan.reach`.

    Args:
        scores_BK: Cosines of the candidates, best first; -inf where there are fewer.
        plan: The plan.
        is_suspect_B: Queries that must have the larger distance: some of their candidates were masked, or they are
            being searched more widely already. The others must have the smaller one.
    """
    if plan.reach is None:
        return np.zeros(len(scores_BK), np.bool_)
    least, far = plan.reach
    close_B: Mask = gaps(scores_BK, plan.k) < np.where(is_suspect_B, far, least)
    return close_B


def are_short(live_B: Counts, found_B: Counts, plan: Plan, k: int, allowed: int) -> Mask:
    """Tell which queries masked rows have left fewer candidates than the plan keeps, or fewer than k."""
    is_short_B: Mask = (live_B < min(k, allowed)) | ((live_B < found_B) & (live_B < min(plan.candidates, allowed)))
    return is_short_B


def usual_reach(gaps_Q: Floats) -> tuple[float, float] | None:
    """Return a plan's `reach` from the `gaps` (Q,) of test queries: what nearly all have, and the median."""
    gaps_Q = gaps_Q[np.isfinite(gaps_Q)]
    return (float(np.quantile(gaps_Q, _CLOSE)), float(np.median(gaps_Q))) if len(gaps_Q) else None


def usual_doubt(misses_Q: Floats, target: float) -> float:
    """Return a plan's `doubt` from the `expected_misses` (Q,) of test queries: what nearly all of them keep below."""
    most, nearly_all = (float(np.quantile(misses_Q, 1 - share)) for share in (_MOST_UNSURE, _UNSURE))
    return max(1 - target, min(nearly_all, max(_MANY_MISSES, most)))


def _tail(x: float) -> float:
    """Probability that a standard normal variable is above x."""
    return 0.5 * math.erfc(x / math.sqrt(2))
