"""Report of `mlake evaluate`: metrics.json, and an HTML page with plots like the paper's.

Owns the layout of the results. Does not measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelines.evaluation.by_dim import Measurement
from pipelines.evaluation.cascade import AdaptiveClassification
from pipelines.evaluation.results import (
    DEFINITIONS,
    Results,
    as_json,
    by_system,
    cell,
    describe_adaptive,
    describe_searches,
    dims_of,
    metrics_of,
)
from pipelines.evaluation.retrieval import SINGLE_SHOT, cheapest_as_good, full_search, ranking_metric
from pipelines.reports.page import Figures, Grid, Part, Report, Section, write_report
from pipelines.reports.plots import Curve, Plot
from pipelines.shortlist.bootstrap import Interval
from schemas.metrics import MetricsFile


def write_results(results: Results, folder: Path) -> tuple[Path, Path]:
    """Write metrics.json and report.html; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics, page = folder / "metrics.json", folder / "report.html"
    metrics.write_text(metrics_file(results).to_json(indent=2))
    write_report(build_report(results), page)
    return metrics, page


def metrics_file(results: Results) -> MetricsFile:
    """Return the content of metrics.json."""
    return MetricsFile.model_validate(as_json(results))


def build_report(results: Results) -> Report:
    """Compose the page from results."""
    names = ", ".join(system.name for system in results.config.systems)
    sections = [_glance(results), _by_dim(results)]
    sections += [_splits(results)] if any("," in row.metric for row in results.rows) else []
    sections += [_robustness(results)] if results.corrupted else []
    sections += [_classification(results.adaptive)] if results.adaptive is not None else []
    sections += [_retrieval(results)] if results.searches else []
    return Report(
        title="How many dims do you need?",
        subtitle=f"{names}: measured on {results.queries:,} queries over {results.rows_searched:,} rows, with "
        f"{results.config.measure.confidence:.0%} intervals by {results.config.measure.draws:,} bootstrap resamples.",
        sections=sections,
        footer=" ".join(f"{note}." for note in results.notes) + " Made by mlake evaluate.",
    )


def _glance(results: Results) -> Section:
    items = []
    main = metrics_of(results.rows)[0]
    first = by_system(results.rows, main)[results.systems[0].name]
    full = first[max(first)]
    near = min(dim for dim, row in first.items() if row.value.mean >= full.value.mean - 0.01)
    items.append((f"{full.value.mean:.3f}", f"{main} of {full.system} at {full.dim} dims"))
    items.append((f"{near}", f"dims are within one point of that: {full.dim / near:.0f} times fewer"))
    if results.adaptive is not None:
        best = results.adaptive.best
        items.append(
            (f"{results.adaptive.dims[-1] / best.dims.mean:.1f}×", "fewer dims per query by adaptive classification")
        )
    if results.searches:
        full_mflops, cheap = full_search(results.searches).mflops, cheapest_as_good(results.searches)
        items.append((f"{full_mflops / cheap.mflops:.0f}×", "fewer FLOPs by adaptive retrieval"))
    return Section("At a glance", "", [Figures(items)])


def _by_dim(results: Results) -> Section:
    metrics = metrics_of(results.rows)
    parts: list[Part] = [
        Plot(f"{metric} by dims", _definition(metric), _curves(results, results.rows, metric), floor=None)
        for metric in metrics
    ]
    parts += [
        _grid(results.rows, metric, f"{metric}; ~ marks dims that the system was not made for.") for metric in metrics
    ]
    reference = results.systems[0].name
    rows = [
        (row.system, str(row.dim), row.metric, str(row.value), "–" if row.above is None else str(row.above))
        for row in results.rows
    ]
    heads = ["system", "dims", "metric", "mean (interval)", f"minus {reference} (paired interval)"]
    parts.append(Grid(heads, rows, fold=f"all {len(rows)} numbers with their intervals"))
    text = (
        "Dashed lines are baselines made of full vectors; bands are intervals. Points between the trained dims are "
        "interpolation: the system was not trained for them."
    )
    return Section("By number of dims", text, parts)


def _splits(results: Results) -> Section:
    metrics = list(dict.fromkeys(row.metric for row in results.rows if "," in row.metric))
    grids = [_grid(results.rows, metric, metric) for metric in metrics]
    text = (
        "Few-shot: only a few rows of each class are searched and learnt from. Long tail: class sizes fall "
        "exponentially; head and tail are the queries of the most common and the rarest third of the classes."
    )
    return Section("With fewer examples", text, grids)


def _robustness(results: Results) -> Section:
    changes = list(dict.fromkeys(row.metric.partition(", ")[2] for row in results.corrupted))
    parts: list[Part] = []
    for base in dict.fromkeys(row.metric.partition(", ")[0] for row in results.corrupted):
        both = [(f"{base}, {change}", change) for change in ("clean/0", "corrupted")]
        curves = [
            Curve(
                f"{curve.label}, {name.partition('/')[0]}", curve.dims, curve.shares, name == "corrupted", curve.bounds
            )
            for metric, name in both
            for curve in _curves(results, results.corrupted, metric)
        ]
        parts.append(Plot(f"{base} on clean and corrupted images", "Mean over all corruptions.", curves, floor=None))
    dims = dims_of(results.corrupted)
    for base in dict.fromkeys(row.metric.partition(", ")[0] for row in results.corrupted):
        rows = [
            (f"{name}, {change}", *(cell(by_dim.get(dim)) for dim in dims))
            for change in changes
            for name, by_dim in by_system(results.corrupted, f"{base}, {change}").items()
        ]
        parts.append(Grid(["", *map(str, dims)], rows, caption=base))
    text = (
        "Corrupted images are the queries; the rows that are searched and learnt from are clean. The number is the "
        "severity."
    )
    return Section("Under corruptions", text, parts)


def _classification(adaptive: AdaptiveClassification) -> Section:
    points = sorted(adaptive.points, key=lambda point: point.dims.mean)
    alone = Curve(
        "one stage alone", adaptive.dims, [one.mean for one in adaptive.alone], bounds=_bounds(adaptive.alone)
    )
    accuracies = [point.accuracy for point in points]
    curves = [
        Curve("cascade", [p.dims.mean for p in points], [a.mean for a in accuracies], bounds=_bounds(accuracies)),
        alone,
        Curve("cascade, dims of all stages", [p.cumulative.mean for p in points], [a.mean for a in accuracies], True),
    ]
    rows = [
        (
            ", ".join("–" if t > 1 else f"{t:.2f}" for t in point.thresholds),
            str(point.accuracy),
            str(point.above_full),
            f"{point.dims.mean:.1f} ({point.dims.low:.1f} to {point.dims.high:.1f})",
            f"{point.cumulative.mean:.1f}",
        )
        for point in adaptive.points
    ]
    heads = ["thresholds", "accuracy", "minus full width", "expected dims", "dims of all stages"]
    text = (
        f"Of {', '.join(map(str, adaptive.dims))} dims, the shortest prefix that is confident enough answers a query. "
        f"Thresholds on the largest softmax probability were learnt on {adaptive.held_out:,} queries over a grid of "
        f"100 values and tested on the other {adaptive.queries:,}. {describe_adaptive(adaptive)}"
    )
    caption = "Dims of all stages: the dims of every stage that was asked, not only of the one that answered."
    plot = Plot("Accuracy by expected dims", caption, curves, axis="expected dims", floor=None)
    return Section("Adaptive classification", text, [plot, Grid(heads, rows, marked=adaptive.chosen)])


def _retrieval(results: Results) -> Section:
    searches = results.searches
    metric = ranking_metric(searches)
    kinds = dict.fromkeys(search.setting.kind for search in searches)
    curves = []
    for kind in kinds:
        some = sorted((s for s in searches if s.setting.kind == kind), key=lambda s: s.mflops)
        values = [search.values[metric].mean for search in some]
        curves.append(Curve(kind, [s.mflops for s in some], values, has_line=kind == SINGLE_SHOT))
    timed = [
        Curve(curve.label, [s.milliseconds for s in some], [s.values[metric].mean for s in some], has_line=False)
        for curve in curves
        for some in [[s for s in searches if s.setting.kind == curve.label]]
    ]
    heads = ["", "dims (candidates kept)", *searches[0].values, f"{metric} minus full width", "MFLOPs", "ms a query"]
    rows = [
        (
            search.setting.kind,
            str(search.setting),
            *(f"{value.mean:.4f}" for value in search.values.values()),
            str(search.above_full[metric]),
            f"{search.mflops:,.3f}",
            f"{search.milliseconds:.3f}",
        )
        for search in searches
    ]
    text = (
        "A shortlist by a short prefix is reranked by a longer one; a funnel does so in several stages. FLOPs are "
        "multiply-adds, one for each dim of every vector compared; wall-clock is of one thread, with vectors in half "
        "precision. The marked row is the cheapest that is at most .005 below a single shot at full width. "
        f"{describe_searches(searches)}"
    )
    plots = [
        Plot(f"{metric} by MFLOPs", "", curves, axis="MFLOPs a query", base=10, floor=None),
        Plot(f"{metric} by wall-clock", "", timed, axis="milliseconds a query", base=10, floor=None),
    ]
    chosen = searches.index(cheapest_as_good(searches))
    return Section("Adaptive and funnel retrieval", text, [*plots, Grid(heads, rows, marked=chosen)])


def _curves(results: Results, rows: Iterable[Measurement], metric: str) -> list[Curve]:
    is_baseline = {system.name: system.is_baseline for system in results.systems}
    return [
        Curve(
            name,
            sorted(by_dim),
            [by_dim[dim].value.mean for dim in sorted(by_dim)],
            is_baseline[name],
            _bounds([by_dim[dim].value for dim in sorted(by_dim)]),
        )
        for name, by_dim in by_system(rows, metric).items()
    ]


def _bounds(intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    return [one.low for one in intervals], [one.high for one in intervals]


def _grid(rows: Sequence[Measurement], metric: str, caption: str) -> Grid:
    found = by_system(rows, metric)
    dims = sorted({dim for by_dim in found.values() for dim in by_dim})
    cells = [(name, *(cell(by_dim.get(dim)) for dim in dims)) for name, by_dim in found.items()]
    return Grid(["", *map(str, dims)], cells, caption=caption)


def _definition(metric: str) -> str:
    return DEFINITIONS[metric.partition("@")[0]]
