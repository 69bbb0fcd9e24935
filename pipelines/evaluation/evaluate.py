"""Evaluation of several systems side by side, from aligned tables to results.

    by dim       1-NN, mAP, recall, nDCG, linear probes; few-shot and long-tail training sets; baselines
    corrupted    the same with corrupted images as queries
    adaptive     a cascade of classifiers; shortlists and funnels

Owns the order of the measurements.

Shapes: N database rows, Q queries, D full width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.alignment import Aligned
from pipelines.evaluation.by_dim import Measured, compare_systems, measure, measure_few_shot, measure_long_tail
from pipelines.evaluation.cascade import AdaptiveClassification, CascadeStages, evaluate_cascade
from pipelines.evaluation.datasets import CLEAN
from pipelines.evaluation.metrics import Labels
from pipelines.evaluation.probe import fit_probe
from pipelines.evaluation.results import Results
from pipelines.evaluation.retrieval import SearchResult, compare_searches, settings_for
from pipelines.evaluation.systems import Sides, System, make_baseline, nested
from schemas.errors import ConfigError

Waiting = Callable[[str], AbstractContextManager[None]]
"""Shows that a step of unknown length is running."""

_POWERS = tuple(1 << power for power in range(3, 20))


def evaluate(aligned: Aligned, waiting: Waiting = lambda step: nullcontext()) -> Results:
    """Measure everything that the config asks for.

    Args:
        aligned: Systems over the same samples.
        waiting: Shows each step while it runs.

    Raises:
        ConfigError: A dim is beyond the width of its system.
    """
    return _Evaluation(aligned, waiting).run()


class _Evaluation:
    """One call of `evaluate`: the measurements so far."""

    def __init__(self, aligned: Aligned, waiting: Waiting) -> None:
        self._aligned, self._waiting, self._config = aligned, waiting, aligned.config
        self._truth, self._settings = aligned.samples.truth, aligned.config.measure
        self._measured: Measured = {}
        self._corrupted: Measured = {}
        self._systems: list[System] = []

    def run(self) -> Results:
        systems = self._config.systems
        adaptive: AdaptiveClassification | None = None
        searches: list[SearchResult] = []
        baseline_of = next((one for one in systems if one.is_fixed), systems[0])
        for system, sides in self._aligned.systems():
            self._measure_by_dim(system)
            if system.name == systems[0].name:
                adaptive, searches = self._classify(system), self._search(system, sides)
            if system.name == baseline_of.name:
                for kind in self._config.baselines:
                    if kind != "truncation" or baseline_of.is_fixed or len(system.dims) == 1:
                        dims = _baseline_dims(system)
                        baseline = make_baseline(kind, system.name, sides, dims, self._settings.seed)
                        self._measure_by_dim(replace(baseline, documents_N=system.documents_N))
            if system.name in self._aligned.tables.corrupted:
                self._measure_corrupted(system, sides)
        reference, resamples, confidence = self._systems[0].name, self._settings.draws, self._settings.confidence
        corrupted = self._corrupted and compare_systems(
            self._corrupted, self._systems, reference, resamples, confidence
        )
        return Results(
            config=self._config,
            rows_searched=len(self._aligned.samples.database),
            queries=len(self._aligned.samples.queries),
            systems=self._systems,
            rows=compare_systems(self._measured, self._systems, reference, resamples, confidence),
            corrupted=corrupted or [],
            adaptive=adaptive,
            searches=searches,
            notes=self._aligned.notes,
        )

    def _measure_by_dim(self, system: System) -> None:
        self._systems.append(system)
        settings, truth = self._settings, self._truth
        with self._waiting(f"{system.name} at {', '.join(map(str, system.dims))} dims"):
            self._measured |= measure(system, truth, has_probe=settings.linear, device=settings.device)
            if isinstance(truth, Labels):
                how = (settings.repeats, settings.seed, settings.device)
                for shots in settings.shots:
                    self._measured |= measure_few_shot(system, truth, shots, *how)
                if settings.imbalance is not None:
                    self._measured |= measure_long_tail(system, truth, settings.imbalance, *how)

    def _measure_corrupted(self, system: System, sides: Sides) -> None:
        """Search with corrupted images as queries; score each corruption, and the mean of all."""
        assert isinstance(self._truth, Labels)
        done, labels_Q, vectors_QD = self._aligned.corrupted_queries(system.name)
        truth = Labels(self._truth.database_N, labels_Q, self._truth.k)
        queries = nested(system.name, (sides[0], vectors_QD), system.dims, sorted(system.made_for))
        with self._waiting(f"{system.name} on corrupted images"):
            measured = measure(queries, truth, has_probe=self._settings.linear, device=self._settings.device)
        changes = np.array(done)
        for (name, dim, metric), scores in measured.items():
            by_change = {change: scores[changes == change] for change in dict.fromkeys(done)}
            for change, values in by_change.items():
                self._corrupted[(name, dim, f"{metric}, {change}")] = values
            worse = [values for change, values in by_change.items() if not change.startswith(CLEAN)]
            self._corrupted[(name, dim, f"{metric}, corrupted")] = np.mean(worse, axis=0)

    def _classify(self, system: System) -> AdaptiveClassification | None:
        """Evaluate a cascade of linear probes, if the config has one, and where there are labels and several dims."""
        config, truth, dims = self._config.cascade, self._truth, sorted(system.made_for)
        if config is None or not isinstance(truth, Labels) or len(dims) < 2:
            return None
        with self._waiting(f"{system.name}: a cascade over {', '.join(map(str, dims))} dims"):
            stages = CascadeStages.of(dims, (self._probabilities(system, dim, truth) for dim in dims), truth.queries_Q)
            return evaluate_cascade(
                stages,
                config.held_out,
                seed=self._settings.seed,
                resamples=self._settings.draws,
                confidence=self._settings.confidence,
            )

    def _probabilities(self, system: System, dim: int, truth: Labels) -> npt.NDArray[np.float32]:
        database_NM, queries_QM = system.at(dim)
        classes = len(self._aligned.samples.classes)
        probe = fit_probe(database_NM, truth.database_N, classes, device=self._settings.device)
        return probe.probabilities(queries_QM)

    def _search(self, system: System, sides: Sides) -> list[SearchResult]:
        """Compare adaptive and funnel retrieval, if the config asks for it, and where there are several dims."""
        config, dims = self._config.retrieval, sorted(system.made_for)
        if config is None or len(dims) < 2:
            return []
        if system.documents_N is not None:
            raise ConfigError(
                f"[retrieval] compares searches by row, and the rows of {system.name!r} are passages, judged by "
                "document; leave [retrieval] out, or put a system without [chunk] first"
            )
        total = len(sides[1])
        places = np.arange(0, total, -(-total // config.queries))
        some, truth = (sides[0], sides[1][places]), self._truth.of_queries(places)
        k = truth.needs(self._settings.k)
        searches = settings_for(dims, max(config.keep, k), config.keeps, k)
        with self._waiting(f"{system.name}: {len(searches)} searches, {len(places):,} queries"):
            return compare_searches(
                some, truth, searches, resamples=self._settings.draws, confidence=self._settings.confidence
            )


def _baseline_dims(system: System) -> Sequence[int]:
    """Return the dims of a baseline: the system's own, or powers of two where it has only one."""
    if len(system.dims) > 1:
        return system.dims
    return [*(dim for dim in _POWERS if dim < system.width), system.width]
