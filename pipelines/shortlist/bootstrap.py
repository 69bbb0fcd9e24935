"""The bootstrap: confidence intervals of means over queries, paired wherever two means are compared.

Owns the resampling. All rows of scores are resampled with the same queries, so the difference of two rows of
resampled means is a paired comparison. `docs/decisions/0015-metrics.md` says why `scipy.stats.bootstrap` is not used.

Shapes: M rows of scores, Q queries, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_RESAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: Mean over queries.
        low: Lower bound.
        high: Upper bound.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format as `0.912 (0.906 to 0.918)`."""
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def resample(scores_MQ: npt.NDArray[np.floating], resamples: int = 1000, seed: int = 0) -> Floats:
    """Return the mean of every row under each resample of the queries: (M, R) float64.

    Each resample draws Q queries with replacement, the same ones for all rows. NaN marks a query that a row does not
    score; it is left out of that row's means. The mean of a resample without any score is 0.

    Args:
        scores_MQ: One row of scores per mean, NaN allowed.
        resamples: Number of resamples.
        seed: Seed of the resampling.

    Source: Efron 1979.
    """
    rng, queries = np.random.default_rng(seed), scores_MQ.shape[1]
    is_scored_MQ = ~np.isnan(scores_MQ)
    known_MQ = np.where(is_scored_MQ, scores_MQ, 0.0)
    has_gaps = not is_scored_MQ.all()
    means_MR = np.empty((len(scores_MQ), resamples))
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        stop = min(start + _RESAMPLES_AT_ONCE, resamples)
        counts_RQ = np.stack(
            [np.bincount(rng.integers(queries, size=queries), minlength=queries) for _ in range(start, stop)]
        ).astype(np.float64)
        scored_MR = np.maximum(is_scored_MQ @ counts_RQ.T, 1) if has_gaps else queries
        means_MR[:, start:stop] = known_MQ @ counts_RQ.T / scored_MR
    return means_MR


def percentile_bounds(means_MR: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Return the lower and upper percentile bounds of resampled means: (M,) each, or scalars for one row (R,)."""
    tail = (1 - confidence) / 2
    low_M, high_M = np.quantile(means_MR, [tail, 1 - tail], axis=-1)
    return low_M, high_M


def interval(mean: float, means_R: Floats, confidence: float = 0.95) -> Interval:
    """Return a mean with the percentile interval of its resampled means."""
    low, high = percentile_bounds(means_R, confidence)
    return Interval(mean, float(low), float(high))


def intervals(scores_MQ: npt.NDArray[np.floating], resamples: int = 1000, confidence: float = 0.95) -> list[Interval]:
    """Return the mean of every row with its interval."""
    means_MR = resample(scores_MQ, resamples)
    return [
        interval(float(scores_Q.mean()), means_R, confidence)
        for scores_Q, means_R in zip(scores_MQ, means_MR, strict=True)
    ]
