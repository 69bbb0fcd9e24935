"""Systems, side by side, dim by dim: per-query scores, their means, intervals, and paired differences.

Owns the measurement by dim and its intervals; owns no data and no page.

Shapes: N database rows, Q queries, M prefix width, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.intervals import Interval, interval, resample
from pipelines.evaluation.metrics import Labels, Scores, Truth
from pipelines.evaluation.nearest import neighbours
from pipelines.evaluation.probe import fit_probe
from pipelines.evaluation.splits import few_shot, head_and_tail, long_tail
from pipelines.evaluation.systems import System

LINEAR = "linear"

Key = tuple[str, int, str]
"""System, dim, metric."""
Measured = dict[Key, Scores]
"""Score of every query, (Q,), by key."""


@dataclass(frozen=True)
class Row:
    """One number of the table.

    Attributes:
        system: Name of the system.
        dim: Prefix width.
        metric: What was measured.
        value: Its mean over queries, with the interval.
        is_made_for: Whether the system was made for that dim; otherwise it lies between or below.
        above: The system minus the reference at the same dim, on the same queries; None where the reference has none.
    """

    system: str
    dim: int
    metric: str
    value: Interval
    is_made_for: bool
    above: Interval | None = None

    def as_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)


def measure(system: System, truth: Truth, *, has_probe: bool = False) -> Measured:
    """Score a system's neighbours at each of its dims; with `has_probe` a linear probe as well."""
    measured: Measured = {}
    for dim in system.dims:
        database_NM, queries_QM = system.at(dim)
        found_QK = neighbours(database_NM, queries_QM, dim, min(truth.depth, len(database_NM)))
        measured |= {(system.name, dim, metric): scores for metric, scores in truth.score(found_QK).items()}
        if has_probe and isinstance(truth, Labels):
            measured[(system.name, dim, LINEAR)] = probe_scores(database_NM, queries_QM, truth)
    return measured


def probe_scores(database_NM: npt.NDArray[np.float32], queries_QM: npt.NDArray[np.float32], truth: Labels) -> Scores:
    """Fit a linear probe on the database and say of each query whether its class was found."""
    classes = int(max(truth.database_N.max(), truth.queries_Q.max())) + 1
    probe = fit_probe(database_NM, truth.database_N, classes)
    right_Q: Scores = (probe.probabilities(queries_QM).argmax(axis=1) == truth.queries_Q).astype(np.float64)
    return right_Q


def measure_few_shot(system: System, truth: Labels, shots: int, repeats: int, seed: int = 0) -> Measured:
    """Score with `shots` rows of every class, averaged over `repeats` draws of them."""
    draws = [few_shot(truth.database_N, shots, seed + repeat) for repeat in range(repeats)]
    measured: Measured = {}
    for dim in system.dims:
        for metric, scores_RQ in _on_parts(system, truth, dim, draws).items():
            measured[(system.name, dim, f"{metric}, {shots}-shot")] = scores_RQ.mean(axis=0)
    return measured


def measure_long_tail(system: System, truth: Labels, imbalance: float, repeats: int, seed: int = 0) -> Measured:
    """Score on classes thinned out exponentially: over all queries, and over those of the head and of the tail.

    A query of another class is NaN in the latter two, and left out of their means.
    """
    drawn = [long_tail(truth.database_N, imbalance, seed + repeat) for repeat in range(repeats)]
    ends = [head_and_tail(order_C) for _, order_C in drawn]
    measured: Measured = {}
    for dim in system.dims:
        for metric, scores_RQ in _on_parts(system, truth, dim, [rows for rows, _ in drawn]).items():
            measured[(system.name, dim, f"{metric}, long tail")] = scores_RQ.mean(axis=0)
            for end, name in enumerate(("head", "tail")):
                is_there_RQ = np.stack([np.isin(truth.queries_Q, both[end]) for both in ends])
                measured[(system.name, dim, f"{metric}, {name}")] = _mean_where(scores_RQ, is_there_RQ)
    return measured


def rows_of(
    measured: Measured, systems: Sequence[System], reference: str, draws: int = 1000, confidence: float = 0.95
) -> list[Row]:
    """Draw every mean's interval, and its difference from the reference system's at the same dim and metric.

    Args:
        measured: Scores, all of the same queries.
        systems: Those that were measured.
        reference: Name of the one that the others are compared with.
        draws: Bootstrap draws.
        confidence: Of the intervals.
    """
    made_for = {system.name: system.made_for for system in systems}
    keys = list(measured)
    scores_MQ = np.stack([measured[key] for key in keys])
    means_MB = resample(scores_MQ, draws)
    place = {key: number for number, key in enumerate(keys)}
    rows = []
    for number, (system, dim, metric) in enumerate(keys):
        mean = float(np.nanmean(scores_MQ[number]))
        against = place.get((reference, dim, metric))
        above = None
        if against is not None and system != reference:
            difference = mean - float(np.nanmean(scores_MQ[against]))
            above = interval(difference, means_MB[number] - means_MB[against], confidence)
        value = interval(mean, means_MB[number], confidence)
        rows.append(Row(system, dim, metric, value, dim in made_for[system], above))
    return rows


def _on_parts(
    system: System, truth: Labels, dim: int, draws: Sequence[npt.NDArray[np.int64]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the 1-NN and linear scores (R, Q) with each of R choices of database rows."""
    database_NM, queries_QM = system.at(dim)
    scores: dict[str, list[Scores]] = {"1-NN": [], LINEAR: []}
    for rows in draws:
        part = replace(truth, database_N=truth.database_N[rows])
        nearest_Q = neighbours(database_NM[rows], queries_QM, dim, 1)
        scores["1-NN"].append(part.right(nearest_Q)[:, 0].astype(np.float64))
        scores[LINEAR].append(probe_scores(database_NM[rows], queries_QM, part))
    return {metric: np.stack(scores_RQ) for metric, scores_RQ in scores.items()}


def _mean_where(scores_RQ: npt.NDArray[np.float64], is_there_RQ: npt.NDArray[np.bool_]) -> Scores:
    """Average each query over the draws in which it counts; NaN where it counts in none."""
    count_Q = is_there_RQ.sum(axis=0)
    return np.where(count_Q > 0, (scores_RQ * is_there_RQ).sum(axis=0) / np.maximum(count_Q, 1), np.nan)
