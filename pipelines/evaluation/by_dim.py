"""Scores of systems dim by dim: neighbours and linear probes, few-shot and long-tail training sets, intervals.

Owns the measurement by dim and the comparison of systems. Does not own data or reports.

Shapes: N database rows, Q queries, M prefix width, C classes, T training sets, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.knn import neighbours
from pipelines.evaluation.metrics import GroundTruth, Labels, Rows, Scores
from pipelines.evaluation.probe import fit_probe
from pipelines.evaluation.systems import System
from pipelines.shortlist.bootstrap import Interval, interval, resample

LINEAR = "linear"

Key = tuple[str, int, str]
"""System, dim, metric."""
Measured = dict[Key, Scores]
"""Score of every query, (Q,), by key. NaN where a query does not count."""


@dataclass(frozen=True)
class Measurement:
    """One metric of one system at one dim.

    Attributes:
        system: Name of the system.
        dim: Prefix width.
        metric: Name of the metric.
        value: Mean over queries, with its interval.
        is_made_for: Whether the system was trained or fitted for that dim.
        above: The system minus the reference at the same dim, on the same queries; None where the reference has none.
    """

    system: str
    dim: int
    metric: str
    value: Interval
    is_made_for: bool
    above: Interval | None = None


def measure(system: System, truth: GroundTruth, *, has_probe: bool = False, device: str = "auto") -> Measured:
    """Score a system's neighbours at each of its dims on a torch device; with `has_probe` a linear probe as well."""
    measured: Measured = {}
    for dim in system.dims:
        database_NM, queries_QM = system.at(dim)
        documents_N = system.documents_N
        most = len(database_NM) if documents_N is None else int(documents_N.max()) + 1
        found_QK = neighbours(
            database_NM, queries_QM, dim, min(truth.depth, most), documents_N=documents_N, device=device
        )
        measured |= {(system.name, dim, metric): scores for metric, scores in truth.score(found_QK).items()}
        if has_probe and isinstance(truth, Labels):
            measured[(system.name, dim, LINEAR)] = probe_scores(database_NM, queries_QM, truth, device)
    return measured


def probe_scores(
    database_NM: npt.NDArray[np.float32], queries_QM: npt.NDArray[np.float32], truth: Labels, device: str = "auto"
) -> Scores:
    """Fit a linear probe on the database; return 1 for each query whose class it finds, else 0."""
    classes = int(max(truth.database_N.max(), truth.queries_Q.max())) + 1
    probe = fit_probe(database_NM, truth.database_N, classes, device=device)
    right_Q: Scores = (probe.probabilities(queries_QM).argmax(axis=1) == truth.queries_Q).astype(np.float64)
    return right_Q


def measure_few_shot(
    system: System, truth: Labels, shots: int, repeats: int, seed: int = 0, device: str = "auto"
) -> Measured:
    """Score with `shots` rows of every class, averaged over `repeats` training sets."""
    sets = [few_shot(truth.database_N, shots, seed + repeat) for repeat in range(repeats)]
    measured: Measured = {}
    for dim in system.dims:
        for metric, scores_TQ in _on_training_sets(system, truth, dim, sets, device).items():
            measured[(system.name, dim, f"{metric}, {shots}-shot")] = scores_TQ.mean(axis=0)
    return measured


def measure_long_tail(
    system: System, truth: Labels, imbalance: float, repeats: int, seed: int = 0, device: str = "auto"
) -> Measured:
    """Score with classes thinned out exponentially: over all queries, and over those of the head and of the tail.

    Queries of other classes are NaN in the latter two.
    """
    drawn = [long_tail(truth.database_N, imbalance, seed + repeat) for repeat in range(repeats)]
    ends = [head_and_tail(order_C) for _, order_C in drawn]
    measured: Measured = {}
    for dim in system.dims:
        sets = [rows for rows, _ in drawn]
        for metric, scores_TQ in _on_training_sets(system, truth, dim, sets, device).items():
            measured[(system.name, dim, f"{metric}, long tail")] = scores_TQ.mean(axis=0)
            for end, name in enumerate(("head", "tail")):
                counts_TQ = np.stack([np.isin(truth.queries_Q, both[end]) for both in ends])
                measured[(system.name, dim, f"{metric}, {name}")] = _mean_where(scores_TQ, counts_TQ)
    return measured


def compare_systems(
    measured: Measured, systems: Sequence[System], reference: str, resamples: int = 1000, confidence: float = 0.95
) -> list[Measurement]:
    """Return every mean with its interval, and its difference from the reference at the same dim and metric.

    Args:
        measured: Scores, all of the same queries.
        systems: The systems that were measured.
        reference: Name of the system that the others are compared with.
        resamples: Bootstrap resamples of the queries.
        confidence: Confidence of the intervals.
    """
    made_for = {system.name: system.made_for for system in systems}
    keys = list(measured)
    scores_MQ = np.stack([measured[key] for key in keys])
    means_MR = resample(scores_MQ, resamples)
    place = {key: number for number, key in enumerate(keys)}
    rows = []
    for number, (system, dim, metric) in enumerate(keys):
        mean = float(np.nanmean(scores_MQ[number]))
        against = place.get((reference, dim, metric))
        above = None
        if against is not None and system != reference:
            difference = mean - float(np.nanmean(scores_MQ[against]))
            above = interval(difference, means_MR[number] - means_MR[against], confidence)
        value = interval(mean, means_MR[number], confidence)
        rows.append(Measurement(system, dim, metric, value, dim in made_for[system], above))
    return rows


def few_shot(labels_N: Rows, shots: int, seed: int = 0) -> Rows:
    """Draw `shots` rows of every class, or all rows of a class that has fewer; return their places, ascending."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels_N == one))[:shots] for one in np.unique(labels_N)]
    return np.sort(np.concatenate(drawn))


def long_tail(labels_N: Rows, imbalance: float, seed: int = 0) -> tuple[Rows, Rows]:
    """Draw rows so that class sizes fall exponentially, the first class `imbalance` times as large as the last.

    The order of the classes is random. The first keeps as many rows as the smallest class has, so that every class has
    enough rows; each keeps at least one.

    Returns:
        Places of the rows, ascending; and the classes, the most common first.

    Source: Cui et al. 2019 (arXiv 1901.05555), section 5.1.
    """
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels_N, return_counts=True)
    order_C = rng.permutation(classes)
    share_C = imbalance ** -(np.arange(len(order_C)) / max(1, len(order_C) - 1))
    sizes_C = np.maximum(1, np.round(counts.min() * share_C)).astype(int)
    drawn = [
        rng.permutation(np.flatnonzero(labels_N == one))[:size] for one, size in zip(order_C, sizes_C, strict=True)
    ]
    return np.sort(np.concatenate(drawn)), order_C


def head_and_tail(order_C: Rows) -> tuple[Rows, Rows]:
    """Return the most common and the rarest third of the classes, at least one each."""
    third = max(1, len(order_C) // 3)
    return order_C[:third], order_C[-third:]


def _on_training_sets(
    system: System, truth: Labels, dim: int, sets: Sequence[Rows], device: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the 1-NN and linear scores (T, Q) with each of T choices of database rows."""
    database_NM, queries_QM = system.at(dim)
    scores: dict[str, list[Scores]] = {"1-NN": [], LINEAR: []}
    for rows in sets:
        part = replace(truth, database_N=truth.database_N[rows])
        nearest_Q = neighbours(database_NM[rows], queries_QM, dim, 1, device=device)
        scores["1-NN"].append(part.right(nearest_Q)[:, 0].astype(np.float64))
        scores[LINEAR].append(probe_scores(database_NM[rows], queries_QM, part, device))
    return {metric: np.stack(scores_TQ) for metric, scores_TQ in scores.items()}


def _mean_where(scores_TQ: npt.NDArray[np.float64], counts_TQ: npt.NDArray[np.bool_]) -> Scores:
    """Average each query over the training sets in which it counts; NaN where it counts in none."""
    count_Q = counts_TQ.sum(axis=0)
    return np.where(count_Q > 0, (scores_TQ * counts_TQ).sum(axis=0) / np.maximum(count_Q, 1), np.nan)
