"""What `jobs evaluate` found: the records, what is said of them in the terminal, and their JSON.

Owns which numbers stand for a result; the page made of them is in `evaluate_report.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from pipelines.evaluation.cascade import Point
from pipelines.evaluation.intervals import Interval
from pipelines.evaluation.retrieval import Setting
from pipelines.evaluation.systems import System
from pipelines.evaluation.table import LINEAR, Row
from schemas.config.evaluation import EvaluateConfig

MEANT = {
    LINEAR: "Linear classification: top-1 of a linear probe fitted on the searched rows.",
    "1-NN": "1-NN: how often the nearest searched row is of the query's class.",
    "mAP": "mAP: precision at each right one of the nearest, summed, divided by their number.",
    "nDCG": "nDCG: the judged worth of the nearest, discounted by rank, as a share of the best possible.",
    "recall": "Recall: the share of the relevant documents that are among the nearest; by labels, how often any is.",
}


@dataclass(frozen=True)
class Adaptive:
    """Adaptive classification, judged.

    Attributes:
        dims: Of its stages.
        alone: Accuracy of each stage alone.
        points: The settings, from the most accurate to the cheapest.
        chosen: Which of them was the cheapest as good as the full width on the hold-out.
        held_out: Queries that the thresholds were learnt on.
        queries: Queries that judged.
    """

    dims: tuple[int, ...]
    alone: Sequence[Interval]
    points: Sequence[Point]
    chosen: int
    held_out: int
    queries: int

    @property
    def best(self) -> Point:
        """The chosen setting."""
        return self.points[self.chosen]


@dataclass(frozen=True)
class Search:
    """A way to search, judged.

    Attributes:
        setting: The stages.
        values: By metric.
        above_full: By metric, that minus a single shot at full width.
        mflops: Millions of multiply-adds a query.
        milliseconds: Wall-clock a query, one thread.
    """

    setting: Setting
    values: Mapping[str, Interval]
    above_full: Mapping[str, Interval]
    mflops: float
    milliseconds: float


@dataclass(frozen=True, eq=False)
class Results:
    """All that was measured.

    Attributes:
        config: The job.
        rows_searched: Rows that were searched and learnt from.
        queries: Queries that judged.
        systems: In the order measured; the first is what the others are compared with.
        rows: By system, dim and metric.
        corrupted: The same on corrupted pictures.
        adaptive: Adaptive classification, where asked for.
        searches: Adaptive and funnel retrieval, where asked for.
        notes: What a reader should know.
    """

    config: EvaluateConfig
    rows_searched: int
    queries: int
    systems: Sequence[System]
    rows: Sequence[Row]
    corrupted: Sequence[Row]
    adaptive: Adaptive | None
    searches: Sequence[Search]
    notes: Sequence[str]


def print_results(results: Results, console: Console) -> None:
    """Print one table per metric: systems down, dims across."""
    dims = dims_of(results.rows)
    for metric in metrics_of(results.rows):
        grid = Table("", *map(str, dims), title=metric)
        for name, by_dim in by_system(results.rows, metric).items():
            grid.add_row(name, *(cell(by_dim.get(dim)) for dim in dims))
        console.print(grid)
    console.print(
        f"{results.queries:,} queries over {results.rows_searched:,} rows; ± is half of the "
        f"{results.config.measure.confidence:.0%} interval; ~ is a dim that the system was not made for",
        highlight=False,
    )
    if results.adaptive is not None:
        console.print(say_adaptive(results.adaptive), highlight=False)
    if results.searches:
        console.print(say_search(results), highlight=False)
    for note in results.notes:
        console.print(f"[yellow]note:[/] {note}", highlight=False)


def as_json(results: Results) -> dict[str, object]:
    """Return all numbers as plain values; a threshold that is never reached is null."""
    return {
        "config": results.config.model_dump(mode="json"),
        "rows_searched": results.rows_searched,
        "queries": results.queries,
        "rows": [asdict(row) for row in results.rows],
        "corrupted": [asdict(row) for row in results.corrupted],
        "adaptive": None if results.adaptive is None else asdict(results.adaptive),
        "searches": [asdict(search) for search in results.searches],
        "notes": list(results.notes),
    }


def say_adaptive(adaptive: Adaptive) -> str:
    """Say what the chosen cascade reaches, and at how many dims."""
    best, width = adaptive.best, adaptive.dims[-1]
    return (
        f"Adaptive classification reaches {best.accuracy} at {best.dims.mean:.1f} expected dims "
        f"({best.dims.low:.1f} to {best.dims.high:.1f}), {width / best.dims.mean:.1f} times fewer than {width} "
        f"({width / best.dims.high:.1f} to {width / best.dims.low:.1f}); "
        f"counted anew at each stage {best.cumulative.mean:.1f}; minus the full width's accuracy: {best.above_full}."
    )


def say_search(results: Results) -> str:
    """Say what the cheapest search that is as good as a single shot saves."""
    metric, full, cheap = ranking(results.searches), full_search(results.searches), cheapest_as_good(results.searches)
    return (
        f"Retrieval by {cheap.setting}: {metric} {cheap.values[metric]} against {full.values[metric]} of a single shot "
        f"at {full.setting.dims[0]} dims, with {full.mflops / cheap.mflops:.1f} times fewer FLOPs, "
        f"{full.milliseconds / cheap.milliseconds:.1f} times faster."
    )


def cheapest_as_good(searches: Sequence[Search]) -> Search:
    """Return the search of fewest FLOPs that is at most .005 below a full-width single shot, and not surely below."""
    metric = ranking(searches)
    good = [s for s in searches if s.above_full[metric].high >= 0 and s.above_full[metric].mean >= -0.005]
    return min(good, key=lambda search: search.mflops)


def full_search(searches: Sequence[Search]) -> Search:
    """Return the single shot at full width."""
    return max((s for s in searches if s.setting.kind == "single shot"), key=lambda search: search.mflops)


def ranking(searches: Sequence[Search]) -> str:
    """Return the metric that searches are compared by: mAP or nDCG."""
    return next(metric for metric in searches[0].values if metric.startswith(("mAP", "nDCG")))


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """Return the metrics on the whole training set, the ones first that the paper shows first."""
    found = dict.fromkeys(row.metric for row in rows if "," not in row.metric)
    return sorted(found, key=lambda metric: [*MEANT].index(metric.partition("@")[0]))


def dims_of(rows: Iterable[Row]) -> list[int]:
    """Return every dim of the rows, ascending."""
    return sorted({row.dim for row in rows})


def by_system(rows: Iterable[Row], metric: str) -> dict[str, dict[int, Row]]:
    """Return the rows of a metric by system and dim."""
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.metric == metric:
            found.setdefault(row.system, {})[row.dim] = row
    return found


def cell(row: Row | None) -> str:
    """Write a number with half of its interval; ~ where the system was not made for that dim."""
    if row is None:
        return ""
    half = (row.value.high - row.value.low) / 2
    return f"{'' if row.is_made_for else '~'}{row.value.mean:.3f} ±{half:.3f}"
