"""How sure a mean over queries is: the bootstrap, paired wherever systems are compared.

All means are drawn from the same resampled queries, so the difference of two rows of draws is a paired comparison.

Shapes: M rows of scores, Q queries, B draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds that hold it with the asked confidence."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """As `0.912 (0.906 to 0.918)`."""
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def resample(scores_MQ: npt.NDArray[np.floating], draws: int = 1000, seed: int = 0) -> Floats:
    """Return the mean of every row under `draws` draws of Q queries with replacement, the same for all rows: (M, B).

    A score that is NaN is not one: it is left out of its row's means.

    Source: Efron 1979.
    """
    rng, queries = np.random.default_rng(seed), scores_MQ.shape[1]
    is_scored_MQ = ~np.isnan(scores_MQ)
    known_MQ = np.where(is_scored_MQ, scores_MQ, 0.0)
    means_MB = np.empty((len(scores_MQ), draws))
    for draw in range(draws):
        counts_Q = np.bincount(rng.integers(queries, size=queries), minlength=queries).astype(np.float64)
        means_MB[:, draw] = known_MQ @ counts_Q / np.maximum(is_scored_MQ @ counts_Q, 1)
    return means_MB


def interval(mean: float, draws_B: Floats, confidence: float = 0.95) -> Interval:
    """Return a mean with the percentile interval of its draws."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws_B, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))
