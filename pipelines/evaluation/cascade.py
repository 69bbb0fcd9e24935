"""Adaptive classification: a short prefix answers when it is sure, a longer one when not.

A stage stops a query when its largest softmax probability reaches the stage's threshold; the last stage always stops.
Thresholds are learnt on a hold-out and judged on other queries. Owns the decision and what it costs; owns no
classifier.

Shapes: G stages, Q queries, C classes, T settings.

Source: Kusupati et al. 2022 (arXiv 2205.13147), section 4.2.1 and appendix D.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.intervals import Interval, interval, resample

Floats = npt.NDArray[np.float64]
Thresholds = npt.NDArray[np.float64]

NEVER = np.inf
"""Threshold of a stage that passes every query on."""
GRID: Thresholds = np.append(np.linspace(0, 1, 100), NEVER)
_TRADES = np.append(0.0, np.geomspace(1e-4, 0.5, 40))
_MOST_SWEEPS = 10


@dataclass(frozen=True, eq=False)
class Stages:
    """What classifiers at ascending dims say of the same queries.

    Attributes:
        dims: One per stage.
        confidence_GQ: The largest softmax probability, 0 to 1.
        right_GQ: Whether it is that of the query's class.
    """

    dims: tuple[int, ...]
    confidence_GQ: Floats
    right_GQ: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls, dims: Sequence[int], probabilities: Iterable[npt.NDArray[np.floating]], labels_Q: npt.ArrayLike
    ) -> Stages:
        """Keep of each stage's (Q, C) softmax what a cascade needs."""
        confidences, rights = [], []
        for stage_QC in probabilities:
            confidences.append(stage_QC.max(axis=1).astype(np.float64))
            rights.append(stage_QC.argmax(axis=1) == np.asarray(labels_Q))
        return cls(tuple(dims), np.stack(confidences), np.stack(rights))

    def of_queries(self, places: npt.NDArray[np.int64]) -> Stages:
        """Return the same of some of the queries."""
        return Stages(self.dims, self.confidence_GQ[:, places], self.right_GQ[:, places])

    def accuracy(self, stage: int) -> float:
        """Return the accuracy of one stage alone."""
        return float(self.right_GQ[stage].mean())


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a cascade did with each query.

    Attributes:
        stage_Q: Stage that answered.
        right_Q: Whether rightly.
        dims_Q: Its dims: nested features are read once, so an earlier stage's come with them.
        cumulative_Q: Dims of all stages that were asked, each counted anew.
    """

    stage_Q: npt.NDArray[np.int64]
    right_Q: npt.NDArray[np.bool_]
    dims_Q: npt.NDArray[np.int64]
    cumulative_Q: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Point:
    """A setting, judged on queries that it was not learnt on.

    Attributes:
        thresholds: One per stage but the last; infinite where a stage is passed over.
        accuracy: Share of right answers.
        above_full: That minus the accuracy of the last stage alone, on the same queries.
        dims: Expected dims, features of earlier stages read once.
        cumulative: Expected dims, every stage's counted anew.
    """

    thresholds: tuple[float, ...]
    accuracy: Interval
    above_full: Interval
    dims: Interval
    cumulative: Interval


def run_cascade(stages: Stages, thresholds: Thresholds) -> Outcome:
    """Let each query be answered by the first stage that is sure enough.

    Args:
        stages: G of them.
        thresholds: (G-1,): 0 stops every query, `NEVER` none; the last stage needs none.
    """
    is_sure_GQ = np.vstack(
        [stages.confidence_GQ[:-1] >= thresholds[:, None], np.ones((1, stages.right_GQ.shape[1]), bool)]
    )
    stage_Q = is_sure_GQ.argmax(axis=0)
    dims_G = np.array(stages.dims)
    right_Q = np.take_along_axis(stages.right_GQ, stage_Q[None], axis=0)[0]
    return Outcome(stage_Q, right_Q, dims_G[stage_Q], dims_G.cumsum()[stage_Q])


def learn_thresholds(holdout: Stages, trade: float) -> Thresholds:
    """Return thresholds (G-1,) from `GRID` that maximise accuracy - `trade` * expected dims / full width on a hold-out.

    One threshold after another is set to the best of the grid with the others as they are, from the last stage to the
    first, until none changes; of equal ones the lowest, which spends least.
    """
    reward_GQ = holdout.right_GQ - trade * np.array(holdout.dims)[:, None] / holdout.dims[-1]
    thresholds = np.full(len(holdout.dims) - 1, NEVER)
    for _ in range(_MOST_SWEEPS):
        before = thresholds.copy()
        for stage in reversed(range(len(thresholds))):
            thresholds[stage] = _best_of_grid(holdout, reward_GQ, thresholds, stage)
        if (before == thresholds).all():
            break
    return thresholds


def _best_of_grid(holdout: Stages, reward_GQ: Floats, thresholds: Thresholds, stage: int) -> float:
    earlier, later = thresholds.copy(), thresholds.copy()
    earlier[stage:], later[: stage + 1] = NEVER, NEVER
    reaches_Q = run_cascade(holdout, earlier).stage_Q > stage
    passed_on_Q = np.take_along_axis(reward_GQ, run_cascade(holdout, later).stage_Q[None], axis=0)[0]
    gain_Q = np.where(reaches_Q, reward_GQ[stage] - passed_on_Q, 0.0)
    order_Q = np.argsort(holdout.confidence_GQ[stage])
    # What stopping here gains over all queries at or above each threshold: a sum from the most confident downwards.
    gains = np.append(gain_Q[order_Q][::-1].cumsum()[::-1], 0.0)
    at_threshold = gains[np.searchsorted(holdout.confidence_GQ[stage][order_Q], GRID)]
    return float(GRID[np.flatnonzero(at_threshold >= at_threshold.max() - 1e-9)[0]])


def frontier(holdout: Stages) -> list[Thresholds]:
    """Return settings from the most accurate to the cheapest that no other beats on the hold-out in both."""
    settings = [learn_thresholds(holdout, trade) for trade in _TRADES]
    settings.append(np.full(len(holdout.dims) - 1, NEVER))
    met = {}
    for one in settings:
        outcome = run_cascade(holdout, one)
        met[(float(outcome.dims_Q.mean()), -float(outcome.right_Q.mean()))] = one
    best, kept = 1.0, []
    for (_, error), one in sorted(met.items()):
        if error < best:
            best = error
            kept.append(one)
    return kept[::-1]


def cheapest_as_good(holdout: Stages, settings: Sequence[Thresholds]) -> Thresholds:
    """Return the setting of fewest expected dims whose hold-out accuracy is that of the last stage alone, or above."""
    target = holdout.accuracy(-1)
    good = [one for one in settings if run_cascade(holdout, one).right_Q.mean() >= target]
    return min(good, key=lambda one: float(run_cascade(holdout, one).dims_Q.mean()))


def judge(test: Stages, settings: Sequence[Thresholds], draws: int = 1000, confidence: float = 0.95) -> list[Point]:
    """Return what each setting does on queries that it was not learnt on, with bootstrap intervals over them."""
    full_Q = test.right_GQ[-1].astype(np.float64)
    points = []
    for one in settings:
        outcome = run_cascade(test, one)
        right_Q = outcome.right_Q.astype(np.float64)
        scores_MQ = np.stack([right_Q, right_Q - full_Q, outcome.dims_Q, outcome.cumulative_Q])
        accuracy, above, dims, cumulative = (
            interval(float(scores_Q.mean()), means_B, confidence)
            for scores_Q, means_B in zip(scores_MQ, resample(scores_MQ, draws), strict=True)
        )
        points.append(Point(tuple(one.tolist()), accuracy, above, dims, cumulative))
    return points
