"""Adaptive classification: a cascade of classifiers at ascending dims.

A stage answers a query when its largest softmax probability reaches the stage's threshold; the last stage always
answers. Thresholds are learnt on a held-out part of the queries and tested on the other part. Owns the decision rule
and its cost. Does not own classifiers.

Shapes: G stages, Q queries, C classes.

Source: Kusupati et al. 2022 (arXiv 2205.13147), section 4.2.1 and appendix D.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.shortlist.bootstrap import Interval, intervals

Floats = npt.NDArray[np.float64]
Thresholds = npt.NDArray[np.float64]

NEVER = np.inf
"""Threshold of a stage that never answers."""
GRID: Thresholds = np.append(np.linspace(0, 1, 100), NEVER)
_TRADES = np.append(0.0, np.geomspace(1e-4, 0.5, 40))
_MAX_SWEEPS = 10


@dataclass(frozen=True, eq=False)
class CascadeStages:
    """Answers of classifiers at ascending dims to the same queries.

    Attributes:
        dims: One per stage.
        confidence_GQ: The largest softmax probability, 0 to 1.
        right_GQ: Whether the class with that probability is the query's.
    """

    dims: tuple[int, ...]
    confidence_GQ: Floats
    right_GQ: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls, dims: Sequence[int], probabilities: Iterable[npt.NDArray[np.floating]], labels_Q: npt.ArrayLike
    ) -> CascadeStages:
        """Reduce each stage's (Q, C) softmax to confidence and correctness."""
        confidences, rights = [], []
        for stage_QC in probabilities:
            confidences.append(stage_QC.max(axis=1).astype(np.float64))
            rights.append(stage_QC.argmax(axis=1) == np.asarray(labels_Q))
        return cls(tuple(dims), np.stack(confidences), np.stack(rights))

    def split(self, held_out: float, seed: int) -> tuple[CascadeStages, CascadeStages]:
        """Split the queries at random into a held-out part, of at least one query, and a test part."""
        order_Q = np.random.default_rng(seed).permutation(self.right_GQ.shape[1])
        held = max(1, round(held_out * len(order_Q)))
        return self._of_queries(order_Q[:held]), self._of_queries(order_Q[held:])

    def accuracy(self, stage: int) -> float:
        """Return the accuracy of one stage alone."""
        return float(self.right_GQ[stage].mean())

    def _of_queries(self, places: npt.NDArray[np.int64]) -> CascadeStages:
        return CascadeStages(self.dims, self.confidence_GQ[:, places], self.right_GQ[:, places])


@dataclass(frozen=True, eq=False)
class CascadeOutcome:
    """Result of a cascade for each query.

    Attributes:
        stage_Q: Stage that answered.
        right_Q: Whether the answer was correct.
        dims_Q: Dims of that stage. Nested features are read once, so earlier stages cost nothing extra.
        cumulative_Q: Sum of the dims of all stages that were asked.
    """

    stage_Q: npt.NDArray[np.int64]
    right_Q: npt.NDArray[np.bool_]
    dims_Q: npt.NDArray[np.int64]
    cumulative_Q: npt.NDArray[np.int64]


@dataclass(frozen=True)
class CascadePoint:
    """Thresholds and their result on the test queries.

    Attributes:
        thresholds: One per stage but the last; infinite where a stage never answers.
        accuracy: Share of correct answers.
        above_full: Accuracy minus that of the last stage alone, on the same queries.
        dims: Expected dims, nested features read once.
        cumulative: Expected sum of the dims of all stages that were asked.
    """

    thresholds: tuple[float, ...]
    accuracy: Interval
    above_full: Interval
    dims: Interval
    cumulative: Interval


@dataclass(frozen=True)
class AdaptiveClassification:
    """Cascades from the most accurate to the cheapest, learnt on held-out queries and tested on the others.

    Attributes:
        dims: Dims of the stages.
        alone: Accuracy of each stage alone.
        points: The cascades.
        chosen: Index of the cheapest cascade that was as good as the full width on the held-out queries.
        held_out: Number of queries that thresholds were learnt on.
        queries: Number of queries they were tested on.
    """

    dims: tuple[int, ...]
    alone: Sequence[Interval]
    points: Sequence[CascadePoint]
    chosen: int
    held_out: int
    queries: int

    @property
    def best(self) -> CascadePoint:
        """The chosen cascade."""
        return self.points[self.chosen]


def run_cascade(stages: CascadeStages, thresholds: Thresholds) -> CascadeOutcome:
    """Answer each query by the first stage that is confident enough.

    Args:
        stages: G stages.
        thresholds: (G-1,): 0 answers every query, `NEVER` none. The last stage needs no threshold.
    """
    is_sure_GQ = np.vstack(
        [stages.confidence_GQ[:-1] >= thresholds[:, None], np.ones((1, stages.right_GQ.shape[1]), bool)]
    )
    stage_Q = is_sure_GQ.argmax(axis=0)
    dims_G = np.array(stages.dims)
    right_Q = np.take_along_axis(stages.right_GQ, stage_Q[None], axis=0)[0]
    return CascadeOutcome(stage_Q, right_Q, dims_G[stage_Q], dims_G.cumsum()[stage_Q])


def learn_thresholds(holdout: CascadeStages, trade: float) -> Thresholds:
    """Return thresholds (G-1,) from `GRID` that maximise accuracy - `trade` * expected dims / full width.

    Coordinate ascent on the held-out queries: each threshold in turn is set to the best value of the grid, from the
    last stage to the first, until none changes. Of equally good values the lowest is taken, which costs least.
    """
    reward_GQ = holdout.right_GQ - trade * np.array(holdout.dims)[:, None] / holdout.dims[-1]
    thresholds = np.full(len(holdout.dims) - 1, NEVER)
    for _ in range(_MAX_SWEEPS):
        before = thresholds.copy()
        for stage in reversed(range(len(thresholds))):
            thresholds[stage] = _best_of_grid(holdout, reward_GQ, thresholds, stage)
        if (before == thresholds).all():
            break
    return thresholds


def _best_of_grid(holdout: CascadeStages, reward_GQ: Floats, thresholds: Thresholds, stage: int) -> float:
    earlier, later = thresholds.copy(), thresholds.copy()
    earlier[stage:], later[: stage + 1] = NEVER, NEVER
    reaches_Q = run_cascade(holdout, earlier).stage_Q > stage
    passed_on_Q = np.take_along_axis(reward_GQ, run_cascade(holdout, later).stage_Q[None], axis=0)[0]
    gain_Q = np.where(reaches_Q, reward_GQ[stage] - passed_on_Q, 0.0)
    order_Q = np.argsort(holdout.confidence_GQ[stage])
    # The gain of answering here all queries at or above a threshold: a running sum from the most confident downwards.
    gains = np.append(gain_Q[order_Q][::-1].cumsum()[::-1], 0.0)
    at_threshold = gains[np.searchsorted(holdout.confidence_GQ[stage][order_Q], GRID)]
    return float(GRID[np.flatnonzero(at_threshold >= at_threshold.max() - 1e-9)[0]])


def pareto_front(holdout: CascadeStages) -> list[Thresholds]:
    """Return the thresholds that no others beat in both accuracy and expected dims, the most accurate first."""
    settings = [learn_thresholds(holdout, trade) for trade in _TRADES]
    settings.append(np.full(len(holdout.dims) - 1, NEVER))
    found = {}
    for one in settings:
        outcome = run_cascade(holdout, one)
        found[(float(outcome.dims_Q.mean()), -float(outcome.right_Q.mean()))] = one
    best, kept = 1.0, []
    for (_, error), one in sorted(found.items()):
        if error < best:
            best = error
            kept.append(one)
    return kept[::-1]


def cheapest_as_accurate(holdout: CascadeStages, settings: Sequence[Thresholds]) -> int:
    """Return the index of the setting with fewest expected dims that is as accurate as the last stage alone."""
    target = holdout.accuracy(-1)
    outcomes = [run_cascade(holdout, one) for one in settings]
    good = [place for place, outcome in enumerate(outcomes) if outcome.right_Q.mean() >= target]
    return min(good, key=lambda place: float(outcomes[place].dims_Q.mean()))


def evaluate_cascade(
    stages: CascadeStages, held_out: float, *, seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> AdaptiveClassification:
    """Learn thresholds on a random part of the queries and test them on the others.

    Args:
        stages: Answers of every stage to all queries.
        held_out: Share of the queries that thresholds are learnt on.
        seed: Seed of the split.
        resamples: Bootstrap resamples of the test queries.
        confidence: Confidence of the intervals.
    """
    holdout, test = stages.split(held_out, seed)
    settings = pareto_front(holdout)
    return AdaptiveClassification(
        dims=stages.dims,
        alone=intervals(test.right_GQ.astype(np.float64), resamples, confidence),
        points=[_test_point(test, one, resamples, confidence) for one in settings],
        chosen=cheapest_as_accurate(holdout, settings),
        held_out=holdout.right_GQ.shape[1],
        queries=test.right_GQ.shape[1],
    )


def _test_point(test: CascadeStages, thresholds: Thresholds, resamples: int, confidence: float) -> CascadePoint:
    outcome = run_cascade(test, thresholds)
    right_Q = outcome.right_Q.astype(np.float64)
    scores_MQ = np.stack([right_Q, right_Q - test.right_GQ[-1], outcome.dims_Q, outcome.cumulative_Q])
    return CascadePoint(tuple(thresholds.tolist()), *intervals(scores_MQ, resamples, confidence))
