"""Measurements of `benchmarks.paper` for the models of one architecture and seed, by the library's own evaluation.

Owns the choice of systems. Results are plain values, kept on disk under the digest of the models.

Shapes: N training images, Q test images, D full width.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.data import fashion_mnist
from benchmarks.paper_cells import Architecture, Trained
from pipelines.evaluation.by_dim import LINEAR, measure, probe_scores
from pipelines.evaluation.cascade import CascadeStages, cheapest_as_accurate, pareto_front, run_cascade
from pipelines.evaluation.metrics import Labels
from pipelines.evaluation.retrieval import SearchSetting, retrieve, settings_for
from pipelines.evaluation.systems import System, between, fixed, make_baseline, nested
from pipelines.storage.atomic_files import atomic_path

KEEP, KEEPS, K = 200, (200, 100, 50, 25, 10), 10
COARSE = 16
_HELD_OUT = 0.2
_PROBE_ROWS = 20_000
_SEARCH_QUERIES = 1_000
# Raise this number when a measurement below changes, so that kept results are measured again.
_VERSION = 1

ByDim = dict[str, dict[str, dict[int, float]]]
"""Metric to system to dim to its mean."""


@dataclass(frozen=True, eq=False)
class Models:
    """The trained models of one architecture and seed."""

    architecture: Architecture
    seed: int
    nested: Trained
    tied: Trained
    fixed: Mapping[int, Trained]

    @property
    def digest(self) -> str:
        """Digest of all of them."""
        cells = [one.cell.digest for one in (self.nested, self.tied, *self.fixed.values())]
        return hashlib.sha256(f"{_VERSION}{cells}".encode()).hexdigest()[:12]


def measure_models(models: Models, folder: Path) -> dict[str, Any]:
    """Measure, or read earlier measurements from the folder."""
    path = folder / f"{models.architecture.name}-seed{models.seed}-{models.digest}.json"
    if not path.exists():
        began = time.perf_counter()
        found = _measure(models) | {"measured_s": time.perf_counter() - began}
        with atomic_path(path) as unfinished:
            unfinished.write_bytes(orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2))
    return _with_numbers(orjson.loads(path.read_bytes()))


def _measure(models: Models) -> dict[str, Any]:
    images = models.nested.cell.images
    (_, labels_N), (_, labels_Q) = fashion_mnist("train"), fashion_mnist("t10k")
    truth = Labels(labels_N[:images], labels_Q, K)
    return {
        "by_dim": _by_dim(models, truth),
        "cascade": _cascade(models.nested, labels_Q),
        "searches": _searches(models.nested, truth),
        "train_s": {one.cell.name: one.seconds for one in (models.nested, models.tied, *models.fixed.values())},
    }


def _by_dim(models: Models, truth: Labels) -> ByDim:
    """Measure every system by its neighbours, and by its own heads or else a linear probe."""
    found: ByDim = {}

    def note(metric: str, system: str, dim: int, value: float) -> None:
        found.setdefault(metric, {}).setdefault(system, {})[dim] = value

    dims, full = models.architecture.dims, models.fixed[models.architecture.width]
    sides = full.train_ND, full.test_QD
    systems = [
        nested("MRL", (models.nested.train_ND, models.nested.test_QD), (*dims, *between(dims)), dims),
        nested("MRL-E", (models.tied.train_ND, models.tied.test_QD), dims),
        fixed("FF", {dim: _sides_of(one) for dim, one in models.fixed.items()}),
    ]
    baselines = [
        replace(make_baseline(kind, "FF", sides, dims, models.seed), name=name)
        for kind, name in (
            ("truncation", "truncated FF"),
            ("pca", "SVD of FF"),
            ("random-columns", "random dims of FF"),
        )
    ]
    for system in (*systems, *baselines):
        for (name, dim, metric), scores in measure(system, truth).items():
            note(metric, name, dim, float(scores.mean()))
    for name, ones in (("MRL", [models.nested]), ("MRL-E", [models.tied]), ("FF", models.fixed.values())):
        for one in ones:
            for dim, right_Q in zip(one.cell.dims, one.right_by_dim(truth.queries_Q), strict=True):
                note(LINEAR, name, dim, float(right_Q.mean()))
    for system in baselines:
        for dim, value in _probed(system, truth).items():
            note(LINEAR, system.name, dim, value)
    return found


def _sides_of(one: Trained) -> Callable[[], tuple[Any, Any]]:
    return lambda: (one.train_ND, one.test_QD)


def _probed(system: System, truth: Labels) -> dict[int, float]:
    some = replace(truth, database_N=truth.database_N[:_PROBE_ROWS])
    found = {}
    for dim in system.dims:
        database_NM, queries_QM = system.at(dim)
        found[dim] = float(probe_scores(database_NM[:_PROBE_ROWS], queries_QM, some).mean())
    return found


def _cascade(trained: Trained, labels_Q: np.ndarray) -> dict[str, Any]:
    """Learn thresholds on a fifth of the test images and test them on the others."""
    logits = trained.logits_GQC - trained.logits_GQC.max(axis=2, keepdims=True)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    stages = CascadeStages.of(trained.cell.dims, softmax, labels_Q)
    holdout, test = stages.split(_HELD_OUT, trained.cell.seed)
    settings = pareto_front(holdout)
    chosen = cheapest_as_accurate(holdout, settings)
    points = []
    for place, one in enumerate(settings):
        outcome = run_cascade(test, one)
        points.append(
            {
                "accuracy": float(outcome.right_Q.mean()),
                "dims": float(outcome.dims_Q.mean()),
                "cumulative": float(outcome.cumulative_Q.mean()),
                "is_chosen": place == chosen,
            }
        )
    alone = {dim: test.accuracy(stage) for stage, dim in enumerate(trained.cell.dims)}
    return {"points": points, "alone": alone, "held_out": holdout.right_GQ.shape[1]}


def _searches(trained: Trained, truth: Labels) -> list[dict[str, Any]]:
    step = -(-len(trained.test_QD) // _SEARCH_QUERIES)
    places = np.arange(0, len(trained.test_QD), step)
    sides, some = (trained.train_ND, trained.test_QD[places]), truth.of_queries(places)
    found = []
    for setting in _chosen_settings(trained.cell.dims):
        one = retrieve(sides, some, setting)
        means = {metric: float(scores.mean()) for metric, scores in one.scores.items()}
        found.append(
            {
                "kind": setting.kind,
                "dims": setting.dims,
                "keeps": setting.keeps,
                "mflops": one.mflops,
                "milliseconds": one.milliseconds,
            }
            | means
        )
    return found


def _chosen_settings(dims: tuple[int, ...]) -> list[SearchSetting]:
    """Return single shots, reranks at full width, and funnels to it, as in the paper's figures."""
    return [one for one in settings_for(dims, KEEP, KEEPS, K) if len(one.dims) == 1 or one.dims[-1] == dims[-1]]


def _with_numbers(found: Any) -> Any:
    """Turn dims, which are strings as JSON keys, back into numbers."""
    if isinstance(found, dict):
        return {int(key) if key.isdigit() else key: _with_numbers(value) for key, value in found.items()}
    return [_with_numbers(one) for one in found] if isinstance(found, list) else found
