"""`python -m jobs shortlist CONFIG`: prefix columns, their indexes, and the shortlist table of a table.

    prefixes  actors cut fragments that lack a prefix (pipelines/tables/prefixes.py); the driver commits
    index     trained once, built in segments by actors, published in one commit; or only the delta indexed
    lists     actors search (query block, part of the table) pairs; merged in one commit; or only repaired

Owns the order of events. Every step looks at what is there already, so the same command resumes, and extends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from cluster.actors import ActorPool
from cluster.session import Pool, connect, plan_pool
from jobs.options import ConfigFile, DryRun, Overrides
from pipelines.reports.plots import check_plots
from pipelines.shortlist.agreement import Agreement, agreement
from pipelines.shortlist.lists import commit_lists, plan_lists, read_lists, search_task
from pipelines.shortlist.planning import lists_uri, open_lists
from pipelines.tables.indexes import build_segment, choose_index, commit_index, extend_index, plan_index
from pipelines.tables.prefixes import (
    check_dims,
    commit_prefixes,
    cut_fragment,
    declare_prefixes,
    plan_prefixes,
    publish_prefixes,
)
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import ShortlistConfig, load_config
from schemas.errors import ConfigError, RunError, TableNotFound

Call = Callable[[], Any]
_MOST_TRIES = 3
_FRAGMENTS_PER_COMMIT = 16


@dataclass
class Summary:
    """What a run did; stored with the run.

    Attributes:
        fragments: Fragments that got a prefix.
        indexed: Dims whose index was built anew; those of the others took in what was appended.
        searches: (query block, part) pairs that were searched.
        lists: Address of the shortlist table, if one was asked for.
    """

    fragments: int = 0
    indexed: tuple[int, ...] = ()
    searches: int = 0
    lists: str | None = None


def main(
    config_file: ConfigFile,
    /,
    *,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    plot: Annotated[Path | None, Parameter(metavar="FILE")] = None,
) -> int:
    """Add prefix columns and their indexes; list the nearest rows of every query at every dim.

    Every step looks at what is there, so that the same command resumes, and takes in new rows.

    Args:
        plot: Draw the agreement between dims into this file: SVG, PNG or PDF.
    """
    config = load_config(ShortlistConfig, config_file, overrides or ())
    console = Console(highlight=False)
    if plot:
        check_plots()
    if dry_run:
        _print_plan(config, console)
        return 0
    summary = run(config)
    built = f"indexes built: {', '.join(map(str, summary.indexed)) or 'none'}"
    console.print(f"{config.table}: prefixes cut for {summary.fragments} fragments; {built}")
    if summary.lists is not None:
        console.print(f"{summary.lists}: {summary.searches} searches")
        report = _agreement(summary.lists, config)
        _print_agreement(report, console)
        if plot:
            report.plot(plot)
    return 0


def run(config: ShortlistConfig) -> Summary:
    """Bring prefixes, indexes and lists up to date.

    Raises:
        DimError: The space must not be cut to one of the dims.
        RunError: Some work failed three times; all else is kept, and the same command goes on.
    """
    table = VectorTable.open(config.table, storage=config.storage)
    dims = check_dims(table, _dims(table, config))
    summary = Summary()
    with connect():
        pool = replace(plan_pool(config.cluster), in_flight=1, feeders=0)
        record = RunRecord(table, "shortlist", config)
        try:
            with ActorPool(partial(Caller, pool.threads), pool) as actors, _bars() as bars:
                _Run(config, actors, pool, bars, record, summary).run(table, dims)
        except BaseException as error:
            record.end(
                "incomplete" if isinstance(error, RunError) else "failed", asdict(summary) | {"error": str(error)}
            )
            raise
        record.end("complete", asdict(summary))
    return summary


class Caller:
    """A worker that does whatever piece of work it is handed."""

    def __init__(self, threads: int) -> None:
        """Take so many threads for arithmetic."""
        torch.set_num_threads(threads)
        self._done = 0

    def run(self, call: Call) -> Any:
        """Do it and return what it returns."""
        result = call()
        self._done += 1
        return result

    def progress(self) -> dict[str, int]:
        """Return how many pieces are done."""
        return {"done": self._done}


@dataclass
class _Run:
    """One run's way through prefixes, indexes and lists."""

    config: ShortlistConfig
    actors: ActorPool[Call, Any]
    pool: Pool
    bars: Progress
    record: RunRecord
    summary: Summary

    def run(self, table: VectorTable, dims: Sequence[int]) -> None:
        if dims:
            table = self._add_prefixes(table, dims)
            for dim in dims:
                table = self._index(table, dim)
        if self.config.lists is not None:
            self.summary.lists = self._make_lists()

    def _add_prefixes(self, table: VectorTable, dims: Sequence[int]) -> VectorTable:
        table = declare_prefixes(table, dims)
        while tasks := plan_prefixes(table, dims):
            written = []
            for files in self._each("prefixes", [partial(cut_fragment, table, task) for task in tasks]):
                written.append(files)
                if len(written) == _FRAGMENTS_PER_COMMIT:
                    table = commit_prefixes(table, written)
                    written = []
                self.summary.fragments += 1
            table = commit_prefixes(table, written)
        return publish_prefixes(table, dims)

    def _index(self, table: VectorTable, dim: int) -> VectorTable:
        plan = plan_index(table, dim, self.config.index)
        if plan is None:
            return extend_index(table, dim)
        groups = [plan.fragments[start :: self.pool.actors] for start in range(self.pool.actors)]
        calls = [partial(build_segment, table, plan, group) for group in groups if group]
        segments = list(self._each(f"index {dim}", calls))
        self.summary.indexed += (dim,)
        return commit_index(table, plan, segments)

    def _make_lists(self) -> str:
        plan = plan_lists(self.config)
        if plan is None:
            return lists_uri(self.config)
        search = partial(search_task, plan.spec, plan.uri, plan.config)
        for _ in self._each("searches", [partial(search, task) for task in plan.todo()]):
            self.summary.searches += 1
        commit_lists(plan)
        return plan.uri

    def _each(self, title: str, calls: Sequence[Call]) -> Iterator[Any]:
        """Yield the result of every call as it comes; what fails is tried again, the rest goes on.

        Raises:
            RunError: Some calls failed three times; raised when all others have ended.
        """
        bar = self.bars.add_task(title, total=len(calls))
        tries: dict[int, int] = {}
        failed: list[BaseException] = []
        for outcome in self.actors.run(calls):
            self.record.beat()
            if outcome is None:
                continue
            error = outcome.error
            if error is None:
                self.bars.advance(bar)
                yield outcome.result
                continue
            tries[id(outcome.item)] = tries.get(id(outcome.item), 0) + 1
            if isinstance(error, ConfigError):
                raise error
            if tries[id(outcome.item)] < _MOST_TRIES:
                self.actors.push(outcome.item, alone=outcome.died)
            else:
                failed.append(error)
        if failed:
            raise RunError(
                f"{title}: {len(failed)} of {len(calls)} failed {_MOST_TRIES} times, all others are done; first: "
                f"{type(failed[0]).__name__}: {failed[0]}; mend the cause and run the same command again: "
                "only what failed is done again"
            )


@contextmanager
def _bars() -> Iterator[Progress]:
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bars:
        yield bars


def _dims(table: VectorTable, config: ShortlistConfig) -> tuple[int, ...]:
    """Return the prefix columns that are asked for."""
    return table.space.ladder.dims[:-1] if config.dims is None else config.dims


def _print_plan(config: ShortlistConfig, console: Console) -> None:
    table = VectorTable.open(config.table, storage=config.storage)
    dims = check_dims(table, _dims(table, config))
    there = set(table.prefix_dims)
    lacking = plan_prefixes(table, [dim for dim in dims if dim in there])
    console.print(f"{table.uri}: {table.dataset.count_rows():,} rows in {len(table.dataset.get_fragments())} fragments")
    console.print(f"prefix columns to add: {', '.join(str(dim) for dim in dims if dim not in there) or 'none'}")
    console.print(f"fragments that lack a prefix the table has: {len(lacking)}")
    for dim in dims:
        chosen = choose_index(table.dataset.count_rows(), config.index)
        console.print(f"index over {dim} dims: {'none' if chosen is None else f'{chosen[0]}, {chosen[1]} partitions'}")
    if config.lists is not None:
        console.print(f"lists: {lists_uri(config)}")


def _agreement(uri: str, config: ShortlistConfig) -> Agreement:
    lists = open_lists(uri, config.storage)
    if lists is None:
        raise TableNotFound(f"no lists at {uri}")
    return agreement(*read_lists(lists))


def _print_agreement(report: Agreement, console: Console) -> None:
    ranks = [rank for rank in (1, 10, 100, 1000) if rank < report.k] + [report.k]
    grid = RichTable(title=f"overlap with {report.dims[-1]} dims, {report.queries} queries, 95 % intervals")
    grid.add_column("dims", justify="right")
    for rank in ranks:
        grid.add_column(f"@{rank}", justify="right")
    for dim, mean_K, low_K, high_K in zip(report.dims, report.overlap_LK, report.low_LK, report.high_LK, strict=True):
        cells = [f"{mean_K[r - 1]:.3f} [dim]{low_K[r - 1]:.3f}–{high_K[r - 1]:.3f}[/]" for r in ranks]
        grid.add_row(str(dim), *cells)
    console.print(grid)
