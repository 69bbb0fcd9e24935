"""Terminal output of evaluation, training and demo: tables of results, progress of steps and of training.

Owns what these jobs print. The screen of `jobs embed` is in `progress`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from pipelines.evaluation.results import (
    Results,
    by_system,
    cell,
    describe_adaptive,
    describe_searches,
    dims_of,
    metrics_of,
)


@contextmanager
def waiting(console: Console, step: str, indent: str = "") -> Iterator[None]:
    """Show a spinner and the elapsed time while a step of unknown length runs."""
    columns = (
        *([TextColumn(indent)] if indent else []),
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(step, total=None)
        yield
        progress.update(task, total=1, completed=1)


def count_progress(console: Console, indent: str = "") -> Progress:
    """Return a bar that counts samples, one line per task."""
    columns = TextColumn(f"{indent}{{task.description:<12}}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


def print_results(results: Results, console: Console) -> None:
    """Print one table per metric, systems down and dims across, and the sentences about cascades and searches."""
    dims = dims_of(results.rows)
    for metric in metrics_of(results.rows):
        grid = Table("", *map(str, dims), title=metric)
        for name, by_dim in by_system(results.rows, metric).items():
            grid.add_row(name, *(cell(by_dim.get(dim)) for dim in dims))
        console.print(grid)
    console.print(
        f"{results.queries:,} queries over {results.rows_searched:,} rows; ± is half of the "
        f"{results.config.measure.confidence:.0%} interval; ~ marks a dim that the system was not made for",
        highlight=False,
    )
    if results.adaptive is not None:
        console.print(describe_adaptive(results.adaptive), highlight=False)
    if results.searches:
        console.print(describe_searches(results.searches), highlight=False)
    for note in results.notes:
        console.print(f"[yellow]note:[/] {note}", highlight=False)
