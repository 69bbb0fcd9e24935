"""`python -m jobs evaluate CONFIG`: systems side by side, dim by dim, beside their baselines.

    prepare    embed what an encoder is to embed, open what lies in tables, line all up by id (evaluate_tables.py)
    by dim     linear probe, 1-NN, mAP, recall, nDCG; few-shot and long-tail training sets; corrupted pictures
    adaptive   a cascade of classifiers; shortlists and funnels
    report     a table, metrics.json, report.html (evaluate_report.py)

Owns the order of events; the arithmetic is in `pipelines.evaluation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.options import ConfigFile, Overrides
from pipelines.evaluation.baselines import make_baseline
from pipelines.evaluation.cascade import Stages, cheapest_as_good, frontier, judge
from pipelines.evaluation.folders import CLEAN
from pipelines.evaluation.intervals import interval, resample
from pipelines.evaluation.metrics import Labels
from pipelines.evaluation.probe import fit_probe
from pipelines.evaluation.results import Adaptive, Results, Search, print_results
from pipelines.evaluation.retrieval import Retrieved, retrieve, settings_for
from pipelines.evaluation.systems import Sides, System, nested
from pipelines.evaluation.systems_of_tables import Bench, prepare
from pipelines.evaluation.table import Measured, measure, measure_few_shot, measure_long_tail, rows_of
from pipelines.reports.evaluation import write_results
from schemas.config import load_config
from schemas.config.evaluation import EvaluateConfig

_POWERS = tuple(1 << power for power in range(3, 20))


def main(config_file: ConfigFile, /, *, overrides: Overrides = None) -> int:
    """Measure tables or encoders at every dim, beside baselines, with intervals and a report.

    The results are printed, and written as metrics.json and report.html into the folder that the config names.
    """
    config, console = load_config(EvaluateConfig, config_file, overrides or ()), Console()
    results = run(config, console)
    print_results(results, console)
    for path in write_results(results, Path(config.folder)):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    return 0


def run(config: EvaluateConfig, console: Console) -> Results:
    """Measure everything that the config asks for.

    Raises:
        LakeError: The config, the data or the tables do not allow it; see `prepare`.
    """
    return _Evaluation(prepare(config, console), console).run()


class _Evaluation:
    """One run over what `prepare` lined up."""

    def __init__(self, bench: Bench, console: Console) -> None:
        self._bench, self._console, self._config = bench, console, bench.config
        self._truth, self._asked = bench.samples.truth, bench.config.measure
        self._measured: Measured = {}
        self._corrupted: Measured = {}
        self._systems: list[System] = []

    def run(self) -> Results:
        asked = self._config.systems
        adaptive, searches = None, []
        whole = next((one for one in asked if one.is_fixed), asked[0])
        for system, sides in self._bench.systems():
            self._by_dim(system)
            if system.name == asked[0].name:
                adaptive, searches = self._cascade(system), self._search(system, sides)
            if system.name == whole.name:
                for kind in self._config.baselines:
                    if kind != "truncation" or whole.is_fixed or len(system.dims) == 1:
                        dims = self._baseline_dims(system)
                        self._by_dim(make_baseline(kind, system.name, sides, dims, self._asked.seed))
            if system.name in self._bench.corrupted:
                self._by_corruption(system, sides)
        reference, draws, confidence = self._systems[0].name, self._asked.draws, self._asked.confidence
        return Results(
            config=self._config,
            rows_searched=len(self._bench.samples.database),
            queries=len(self._bench.samples.queries),
            systems=self._systems,
            rows=rows_of(self._measured, self._systems, reference, draws, confidence),
            corrupted=rows_of(self._corrupted, self._systems, reference, draws, confidence) if self._corrupted else [],
            adaptive=adaptive,
            searches=searches,
            notes=self._bench.notes,
        )

    def _by_dim(self, system: System) -> None:
        self._systems.append(system)
        asked, truth = self._asked, self._truth
        with self._waiting(f"{system.name} at {', '.join(map(str, system.dims))} dims"):
            self._measured |= measure(system, truth, has_probe=asked.linear)
            if isinstance(truth, Labels):
                for shots in asked.shots:
                    self._measured |= measure_few_shot(system, truth, shots, asked.repeats, asked.seed)
                if asked.imbalance is not None:
                    self._measured |= measure_long_tail(system, truth, asked.imbalance, asked.repeats, asked.seed)

    def _baseline_dims(self, system: System) -> Sequence[int]:
        """Return the dims of a baseline: the system's own, or powers of two where it has but one."""
        if len(system.dims) > 1:
            return system.dims
        return [*(dim for dim in _POWERS if dim < system.width), system.width]

    def _by_corruption(self, system: System, sides: Sides) -> None:
        """Ask with corrupted pictures what the clean ones know; score each corruption by itself and all together."""
        assert isinstance(self._truth, Labels)
        done, labels_Q, vectors_QD = self._bench.corrupted_queries(system.name)
        truth = Labels(self._truth.database_N, labels_Q, self._truth.k)
        asking = nested(system.name, (sides[0], vectors_QD), system.dims, sorted(system.made_for))
        with self._waiting(f"{system.name} on corrupted pictures"):
            measured = measure(asking, truth, has_probe=self._asked.linear)
        changes = np.array(done)
        for (name, dim, metric), scores in measured.items():
            by_change = {change: scores[changes == change] for change in dict.fromkeys(done)}
            for change, values in by_change.items():
                self._corrupted[(name, dim, f"{metric}, {change}")] = values
            worse = [values for change, values in by_change.items() if not change.startswith(CLEAN)]
            self._corrupted[(name, dim, f"{metric}, corrupted")] = np.mean(worse, axis=0)

    def _cascade(self, system: System) -> Adaptive | None:
        """Learn thresholds on one part of the queries and judge them on the other."""
        asked, truth, dims = self._config.cascade, self._truth, sorted(system.made_for)
        if asked is None or not isinstance(truth, Labels) or len(dims) < 2:
            return None
        with self._waiting(f"{system.name}: a cascade over {', '.join(map(str, dims))} dims"):
            stages = Stages.of(dims, (self._probabilities(system, dim, truth) for dim in dims), truth.queries_Q)
            order_Q = np.random.default_rng(self._asked.seed).permutation(len(truth.queries_Q))
            held = max(1, round(asked.held_out * len(order_Q)))
            holdout, test = stages.of_queries(order_Q[:held]), stages.of_queries(order_Q[held:])
            settings = frontier(holdout)
            chosen = cheapest_as_good(holdout, settings)
            draws, confidence = self._asked.draws, self._asked.confidence
            alone_GQ = test.right_GQ.astype(np.float64)
            return Adaptive(
                dims=tuple(dims),
                alone=[
                    interval(float(right_Q.mean()), means_B, confidence)
                    for right_Q, means_B in zip(alone_GQ, resample(alone_GQ, draws), strict=True)
                ],
                points=judge(test, settings, draws, confidence),
                chosen=next(place for place, one in enumerate(settings) if one is chosen),
                held_out=held,
                queries=len(order_Q) - held,
            )

    def _probabilities(self, system: System, dim: int, truth: Labels) -> npt.NDArray[np.float32]:
        database_NM, queries_QM = system.at(dim)
        return fit_probe(database_NM, truth.database_N, len(self._bench.samples.classes)).probabilities(queries_QM)

    def _search(self, system: System, sides: Sides) -> list[Search]:
        """Search by every setting; compare each with a single shot at full width, on the same queries."""
        asked, dims = self._config.retrieval, sorted(system.made_for)
        if asked is None or len(dims) < 2:
            return []
        total = len(sides[1])
        places = np.arange(0, total, -(-total // asked.queries))
        some, truth = (sides[0], sides[1][places]), self._truth.of_queries(places)
        settings = settings_for(dims, asked.keep, asked.keeps, self._asked.k)
        with self._waiting(f"{system.name}: {len(settings)} ways to search, {len(places):,} queries"):
            found = [retrieve(some, truth, setting) for setting in settings]
        full = next(one for one in found if one.setting.dims == (dims[-1],))
        return [self._compared(one, full) for one in found]

    def _compared(self, one: Retrieved, full: Retrieved) -> Search:
        scores_MQ = np.stack([scores - against for metric in one.scores for scores, against in (
            (one.scores[metric], 0.0), (one.scores[metric], full.scores[metric]))])  # fmt: skip
        means_MB = resample(scores_MQ, self._asked.draws)
        drawn = [interval(float(s.mean()), m, self._asked.confidence) for s, m in zip(scores_MQ, means_MB, strict=True)]
        return Search(
            setting=one.setting,
            values=dict(zip(one.scores, drawn[::2], strict=True)),
            above_full=dict(zip(one.scores, drawn[1::2], strict=True)),
            mflops=one.mflops,
            milliseconds=one.milliseconds,
        )

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        """Show that something of unknown length goes on, and for how long."""
        columns = SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=None)
            yield
            progress.update(task, total=1, completed=1)
