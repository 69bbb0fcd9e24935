"""Terminal output of jobs: plans, tables of results, spinners and bars of evaluation, training and demo.

Owns what these jobs print. The screen of `mlake embed` is in `progress`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.cells import cell_len
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
from rich.text import Text

from pipelines.embedding.plan import EmbedPlan, expected_rows
from pipelines.evaluation.results import (
    Results,
    by_system,
    cell,
    describe_adaptive,
    describe_searches,
    dims_of,
    metrics_of,
)
from pipelines.evaluation.rotated_recall import Rotated
from pipelines.shortlist.agreement import Agreement
from pipelines.shortlist.planning import lists_uri
from pipelines.shortlist.run import prefix_dims
from pipelines.tables.indexes import choose_index
from pipelines.tables.prefixes import plan_prefixes
from pipelines.tables.rows import check_filter
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import rotated_ladder
from schemas.cards import RecallCard
from schemas.config import EmbedConfig, ShortlistConfig
from schemas.journal import EmbedSummary, Equality
from schemas.printable import counted
from schemas.records import Usage
from schemas.redaction import redact

_MAX_SHARDS = 10
_NAME_WIDTH, _MIN_NAME_WIDTH = 24, 6
_RANKS = (1, 10, 100, 1000)


@contextmanager
def waiting(console: Console, step: str, indent: str = "") -> Iterator[None]:
    """Show a spinner and the elapsed time while a step of unknown length runs."""
    columns = (
        *([TextColumn(indent)] if indent else []),
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(step, total=None)
        yield
        progress.update(task, total=1, completed=1)


def count_progress(console: Console, indent: str = "") -> Progress:
    """Return a bar that counts samples, one line per task."""
    columns = (
        TextColumn(f"{indent}{{task.description:<12}}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def print_results(results: Results, console: Console) -> None:
    """Print one table per metric, systems down and dims across, and the sentences about cascades and searches."""
    dims = dims_of(results.rows)
    for metric in metrics_of(results.rows):
        rows = [
            [name, *(cell(by_dim.get(dim)) for dim in dims)] for name, by_dim in by_system(results.rows, metric).items()
        ]
        print_columns(metric, ["", *map(str, dims)], rows, console)
    console.print(
        f"{results.queries:,} queries over {results.rows_searched:,} rows; ± is half of the "
        f"{results.config.measure.confidence:.0%} interval; ~ marks a dim that the system was not made for",
        highlight=False,
    )
    if results.adaptive is not None:
        console.print(describe_adaptive(results.adaptive))
    if results.searches:
        console.print(describe_searches(results.searches))
    for note in results.notes:
        console.print(Text.assemble(("note:", "yellow"), " ", note))


def print_columns(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """Print a table whose numbers are never cut short: one that is too wide goes on in another below it.

    Args:
        title: Title of each part.
        heads: Heads of the columns; the first column names the rows, and is there in every part.
        rows: A cell for each head.
        console: Where it is printed.
    """
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    widths[0] = min(widths[0], _NAME_WIDTH, max(_MIN_NAME_WIDTH, console.width - max(widths[1:], default=0) - 7))
    first = 1
    while first < len(heads):
        last = first + 1
        while last < len(heads) and _table_width([widths[0], *widths[first : last + 1]]) <= console.width:
            last += 1
        grid = Table(title=title)
        grid.add_column(heads[0], overflow="fold", min_width=widths[0])
        for head, width in zip(heads[first:last], widths[first:last], strict=True):
            grid.add_column(head, no_wrap=True, justify="right", min_width=width)
        for row in rows:
            grid.add_row(row[0], *row[first:last])
        console.print(grid)
        first = last


def _table_width(widths: Sequence[int]) -> int:
    return sum(widths) + 3 * len(widths) + 1  # a space on both sides of a cell, and a line between two


def print_embed_plan(config: EmbedConfig, plan: EmbedPlan, console: Console) -> None:
    """Print the shards, table and space of a run of `mlake embed`."""
    size = sum(shard.size for shard in plan.todo)
    rotation = " (before the rotation, which is fitted when the run starts)" if config.rotation.kind == "pca" else ""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("table", plan.table.uri if plan.table else f"{config.table} (new)")
    grid.add_row("space", f"{plan.space.fingerprint}{rotation if plan.table is None else ''}")
    grid.add_row("encoder", f"{plan.space.encoder_name} {plan.space.revision}, {plan.space.dtype}")
    ladder = rotated_ladder(plan.space.ladder.width) if rotation and plan.table is None else plan.space.ladder
    grid.add_row("ladder", f"{ladder}{' (after the rotation)' if ladder is not plan.space.ladder else ''}")
    grid.add_row("shards", f"{len(plan.todo):,} to do, {len(plan.shards) - len(plan.todo):,} in the table")
    kind = "samples" if config.chunk is None else "passages"
    grid.add_row("expected", f"about {expected_rows(plan.todo, config):,} {kind}, {size:,} bytes")
    if len(plan.columns.kept) or plan.table is None:
        grid.add_row("columns", ", ".join(f"{field.name} ({field.type})" for field in plan.columns.kept) or "none kept")
    console.print(grid, soft_wrap=True)
    for note in plan.notes:
        console.print(note, soft_wrap=True)
    for shard in plan.todo[:_MAX_SHARDS]:
        console.print(f"  {redact(shard.uri)}  {shard.size:,} bytes", soft_wrap=True)
    if len(plan.todo) > _MAX_SHARDS:
        console.print(f"  … and {len(plan.todo) - _MAX_SHARDS:,} more")


def print_embed_summary(table: str, summary: EmbedSummary, console: Console) -> None:
    """Print what a run of `mlake embed` did, and its advice."""
    if not summary.shards_todo:
        console.print(f"nothing to do: {table} holds all {counted(summary.shards_done, 'shard')}")
        return
    console.print(
        f"{table}: {counted(summary.rows, 'row')} from {counted(summary.shards, 'shard')} "
        f"in {summary.total_s:.1f} s (start-up {summary.start_s:.1f} s, "
        f"then {summary.rows / max(summary.seconds, 1e-9):,.0f} rows/s), "
        f"{counted(summary.rejects, 'reject')}, {counted(summary.shards_done, 'shard')} there before"
        f"{f', {summary.reused:,} vectors reused' if summary.reused else ''}",
        highlight=False,
    )
    if summary.erased:
        said = f"left out, since `mlake delete` has erased them: {counted(summary.erased, 'sample')}"
        console.print(f"{said}; mlake lift {table} lets them in", soft_wrap=True, highlight=False)
    if summary.usage is not None:
        console.print(say_usage(summary.usage), soft_wrap=True, highlight=False)
    for advice in summary.advice:
        console.print(f"advice: {advice.text}")
    if summary.is_stopped:
        console.print("stopped as asked; the same command resumes")


def say_usage(usage: Usage) -> str:
    """Return one sentence about what a served encoder was asked for, and its cost."""
    counts = f"asked the server for {counted(usage.tokens, 'token')} in {counted(usage.requests, 'request')}"
    if usage.estimated_tokens == usage.tokens:
        how = "estimated from the characters, since it reports no usage"
    elif usage.estimated_tokens:
        how = f"{usage.estimated_tokens:,} of them estimated, since some answers report no usage"
    else:
        how = "as it counts them"
    cost = "no cost, since its file names no price_per_million_tokens"
    if usage.cost is not None:
        cost = f"cost {'about ' * (usage.estimated_tokens > 0)}{usage.cost:,.4f}"
    return f"{counts}, {how}; {cost}"


def say_equality(found: Equality) -> str:
    """Return one sentence about a comparison with a reference implementation."""
    if found.note:
        return f"the encoder was not compared with its reference implementation: {found.note}"
    return (
        f"{counted(found.samples, 'sample')} compared with {found.reference}: cosine {found.cosine:.6f} or more, in "
        f"{found.dtype}"
    )


def print_shortlist_plan(config: ShortlistConfig, console: Console) -> None:
    """Print the prefixes, indexes and lists of a run of `mlake shortlist`."""
    table = VectorTable.open(config.table, storage=config.storage)
    rows, dims, present = table.dataset.count_rows(), prefix_dims(table, config), set(table.prefix_dims)
    check_filter(table.dataset, config.lists.where if config.lists else None, table.uri)
    lacking = plan_prefixes(table, [dim for dim in dims if dim in present])
    console.print(f"{table.uri}: {counted(rows, 'row')} in {counted(len(table.dataset.get_fragments()), 'fragment')}")
    new = [str(dim) for dim in dims if dim not in present]
    console.print(f"prefix columns to add: {', '.join(new) or 'none'}")
    console.print(f"fragments that lack a prefix the table has: {len(lacking)}")
    index = choose_index(rows, config.index)
    for dim in dims:
        console.print(f"index over {dim} dims: {'none' if index is None else f'{index[0]}, {index[1]} partitions'}")
    if config.lists is not None:
        console.print(f"lists: {lists_uri(config)}")


def print_agreement(report: Agreement, console: Console) -> None:
    """Print how far the shortlists of each dim overlap with those of the full width."""
    ranks = [rank for rank in _RANKS if rank < report.k] + [report.k]
    grid = Table(title=f"overlap with {report.dims[-1]} dims, {report.queries} queries, 95 % intervals")
    grid.add_column("dims", justify="right")
    for rank in ranks:
        grid.add_column(f"@{rank}", justify="right")
    for dim, mean_K, low_K, high_K in zip(report.dims, report.overlap_LK, report.low_LK, report.high_LK, strict=True):
        cells = [_with_interval(mean_K[r - 1], low_K[r - 1], high_K[r - 1]) for r in ranks]
        grid.add_row(str(dim), *cells)
    console.print(grid)


def _with_interval(mean: float, low: float, high: float) -> Text:
    return Text.assemble(f"{mean:.3f} ", (f"{low:.3f}–{high:.3f}", "dim"))


def print_rotated(rotated: Rotated, console: Console) -> None:
    """Print the recall of each dim before and after a rotation."""
    table = rotated.table
    grid = Table("dims", "recall@10 before", "after", title=f"{table.uri}, version {table.dataset.version}")
    for dim, before, after in zip(rotated.dims, rotated.before, rotated.after, strict=True):
        grid.add_row(str(dim), f"{before:.3f}", f"{after:.3f}")
    console.print(grid)
    console.print(f"the ladder is now {table.space.ladder}; later `mlake embed` runs need --set rotation.kind=pca")


def print_timed_card(card: RecallCard, console: Console) -> None:
    """Print the rows of a recall card that were timed."""
    timed = tuple(row for row in card.rows if row.us_per_query is not None)
    shown = card.model_copy(update={"rows": timed, "chosen": timed.index(card.best)})
    console.print(str(shown), soft_wrap=True)


def print_next_steps(folder: Path, report: Path, console: Console) -> None:
    """Print where the report is, and commands that search the demo's tables."""
    console.print(f"the report: {report.absolute().as_uri()}\ntry next:", soft_wrap=True)
    for command in (
        f'mlake search {folder / "glosses.lance"} "fear of closed spaces" --k 5 --dims 64',
        f'mlake search {folder / "news.lance"} "viruses spreading through e-mail" --k 3',
        f'mlake search {folder / "pictures.lance"} "a red heart" --columns name category '
        f"--encoder-path {folder / 'head' / 'encoder'}",
    ):
        console.print(f"  {command}", style="cyan", soft_wrap=True)
