"""Results of an evaluation, the numbers that stand for them, and their JSON.

Owns the record and the choice of numbers. Terminal tables and the HTML page are in `pipelines.reports`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from pipelines.evaluation.by_dim import LINEAR, Measurement
from pipelines.evaluation.cascade import AdaptiveClassification
from pipelines.evaluation.retrieval import SearchResult, cheapest_as_good, full_search, ranking_metric
from pipelines.evaluation.systems import System
from schemas.config.evaluation import EvaluateConfig
from schemas.redaction import redact

DEFINITIONS = {
    LINEAR: "Linear classification: top-1 accuracy of a linear probe fitted on the database.",
    "1-NN": "1-NN: share of queries whose nearest database row is of their class.",
    "mAP": "mAP@k: precision at each correct row among the k nearest, summed, divided by k.",
    "nDCG": "nDCG@k: gains of the k nearest, discounted by rank, as a share of the best possible.",
    "recall": "Recall@K: share of the relevant documents among the K nearest; with labels, whether any is correct.",
}


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that an evaluation measured.

    Attributes:
        config: The job's config.
        rows_searched: Number of database rows, searched and learnt from.
        queries: Size of the query set.
        systems: In the order measured; the others are compared with the first.
        rows: By system, dim and metric.
        corrupted: The same with corrupted images as queries.
        adaptive: Adaptive classification, where asked for.
        searches: Adaptive and funnel retrieval, where asked for.
        notes: Warnings for the reader, such as samples that were left out.
    """

    config: EvaluateConfig
    rows_searched: int
    queries: int
    systems: Sequence[System]
    rows: Sequence[Measurement]
    corrupted: Sequence[Measurement]
    adaptive: AdaptiveClassification | None
    searches: Sequence[SearchResult]
    notes: Sequence[str]


def as_json(results: Results) -> dict[str, object]:
    """Return all numbers as plain values; an infinite threshold becomes null in JSON."""
    return {
        "config": json.loads(redact(results.config.model_dump_json())),
        "rows_searched": results.rows_searched,
        "queries": results.queries,
        "rows": [asdict(row) for row in results.rows],
        "corrupted": [asdict(row) for row in results.corrupted],
        "adaptive": None if results.adaptive is None else asdict(results.adaptive),
        "searches": [asdict(search) for search in results.searches],
        "notes": list(results.notes),
    }


def describe_adaptive(adaptive: AdaptiveClassification) -> str:
    """Summarise the chosen cascade in one sentence."""
    best, width = adaptive.best, adaptive.dims[-1]
    return (
        f"Adaptive classification reaches {best.accuracy} at {best.dims.mean:.1f} expected dims "
        f"({best.dims.low:.1f} to {best.dims.high:.1f}), {width / best.dims.mean:.1f} times fewer than {width} "
        f"({width / best.dims.high:.1f} to {width / best.dims.low:.1f}); with the dims of every stage counted "
        f"{best.cumulative.mean:.1f}. Difference from the full width's accuracy: {best.above_full}."
    )


def describe_searches(searches: Sequence[SearchResult]) -> str:
    """Summarise in one sentence what the cheapest search that is as good as a single shot saves."""
    metric, full, cheap = ranking_metric(searches), full_search(searches), cheapest_as_good(searches)
    return (
        f"Retrieval by {cheap.setting}: {metric} {cheap.values[metric]} against {full.values[metric]} of a single shot "
        f"at {full.setting.dims[0]} dims, with {full.mflops / cheap.mflops:.1f} times fewer FLOPs, in "
        f"{cheap.milliseconds:.3f} ms a query against {full.milliseconds:.3f}."
    )


def metrics_of(rows: Iterable[Measurement]) -> list[str]:
    """Return the metrics on the whole training set, in the order of `DEFINITIONS`."""
    found = dict.fromkeys(row.metric for row in rows if "," not in row.metric)
    return sorted(found, key=lambda metric: [*DEFINITIONS].index(metric.partition("@")[0]))


def dims_of(rows: Iterable[Measurement]) -> list[int]:
    """Return every dim of the rows, ascending."""
    return sorted({row.dim for row in rows})


def by_system(rows: Iterable[Measurement], metric: str) -> dict[str, dict[int, Measurement]]:
    """Return the rows of a metric by system and dim."""
    found: dict[str, dict[int, Measurement]] = {}
    for row in rows:
        if row.metric == metric:
            found.setdefault(row.system, {})[row.dim] = row
    return found


def cell(row: Measurement | None) -> str:
    """Format a mean with half of its interval; ~ marks a dim that the system was not made for."""
    if row is None:
        return ""
    half = (row.value.high - row.value.low) / 2
    return f"{'' if row.is_made_for else '~'}{row.value.mean:.3f} ±{half:.3f}"
