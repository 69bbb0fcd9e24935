"""One run of `mlake shortlist`: prefix columns, then their indexes, then the shortlist table.

    prefixes  actors cut the fragments that lack a prefix; this process commits them
    index     trained once, built in segments by actors, committed together; or only the new rows are indexed
    lists     actors search pairs of a query block and a part of the table; merged in one commit; or only repaired

Every step looks at what the table holds already, so the same command resumes a killed run and takes in new rows. Owns
the order of the steps and the run's entry in the journal. Owns no actor: the pool is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import torch

from pipelines.shortlist.lists import commit_lists, search_task
from pipelines.shortlist.planning import lists_uri, plan_lists
from pipelines.tables.indexes import build_segment, extend_prefix_index, plan_index, publish_index
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
from schemas.config import ShortlistConfig
from schemas.errors import ConfigError, RunError, stored_text
from schemas.journal import ShortlistSummary
from schemas.work import RetryPolicy, WorkPool

Call = Callable[[], Any]
"""A piece of work: a function with its arguments bound; it must pickle."""

_MAX_TRIES = 3
_FRAGMENTS_PER_COMMIT = 16


class Bars(Protocol):
    """Shows a person how far each step is."""

    def begin(self, title: str, total: int) -> None:
        """Add the bar of a step of `total` items."""
        ...

    def advance(self) -> None:
        """Count one item of the last step."""
        ...


class CallWorker:
    """A worker whose items are calls. Lives in an actor."""

    def __init__(self, threads: int) -> None:
        """Use `threads` threads for arithmetic."""
        torch.set_num_threads(threads)
        self._done = 0

    def run(self, call: Call) -> Any:
        """Return what the call returns."""
        result = call()
        self._done += 1
        return result

    def progress(self) -> dict[str, int]:
        """Return how many calls are done."""
        return {"done": self._done}


class ShortlistRun:
    """One run over one table.

    Attributes:
        summary: What the run has done so far.
    """

    def __init__(
        self, config: ShortlistConfig, table: VectorTable, dims: Sequence[int], record: RunRecord, bars: Bars
    ) -> None:
        """Start with nothing done.

        Args:
            config: The job.
            table: The table that gets prefixes and is searched.
            dims: The prefix columns that it should have (`prefix_dims`).
            record: The run's entry in the journal; `run` completes it.
            bars: Told how far each step is.
        """
        self.summary = ShortlistSummary()
        self._config, self._table, self._dims = config, table, dims
        self._record, self._bars = record, bars

    def run(self, pool: WorkPool[Call, Any]) -> None:
        """Bring prefixes, indexes and lists up to date, and write the outcome into the journal.

        Args:
            pool: Actors that each hold a `CallWorker`.

        Raises:
            RunError: Some work failed three times; everything else is kept.
        """
        try:
            self._run(pool)
        except BaseException as error:
            state = "incomplete" if isinstance(error, RunError) else "failed"
            self._record.end(state, asdict(self.summary) | {"error": stored_text(error)})
            raise
        self._record.end("complete", asdict(self.summary))

    def _run(self, pool: WorkPool[Call, Any]) -> None:
        table = self._table
        if self._dims:
            table = self._add_prefixes(pool, table)
        for dim in self._dims:
            table = self._index(pool, table, dim)
        if self._config.lists is not None:
            self.summary.lists = self._make_lists(pool)

    def _add_prefixes(self, pool: WorkPool[Call, Any], table: VectorTable) -> VectorTable:
        table = declare_prefixes(table, self._dims)
        while tasks := plan_prefixes(table, self._dims):
            written = []
            for files in self._results(pool, "prefixes", [partial(cut_fragment, table, task) for task in tasks]):
                written.append(files)
                if len(written) == _FRAGMENTS_PER_COMMIT:
                    table = commit_prefixes(table, written)
                    written = []
                self.summary.fragments += 1
            table = commit_prefixes(table, written)
        return publish_prefixes(table, self._dims)

    def _index(self, pool: WorkPool[Call, Any], table: VectorTable, dim: int) -> VectorTable:
        plan = plan_index(table, dim, self._config.index)
        if plan is None:
            return extend_prefix_index(table, dim)
        groups = [plan.fragments[start :: pool.actors] for start in range(pool.actors)]
        calls = [partial(build_segment, table, plan, group) for group in groups if group]
        segments = list(self._results(pool, f"index {dim}", calls))
        self.summary.indexed += (dim,)
        return publish_index(table, plan, segments)

    def _make_lists(self, pool: WorkPool[Call, Any]) -> str:
        plan = plan_lists(self._config)
        if plan is None:
            return lists_uri(self._config)
        search = partial(search_task, plan.spec, plan.uri, plan.config)
        rows, queries = dict[int, int](), dict[int, int]()
        for done in self._results(pool, "searches", [partial(search, task) for task in plan.todo()]):
            self.summary.searches += 1
            rows[done.task.part], queries[done.task.block] = done.lost_rows, done.lost_queries
        self.summary.lost_rows, self.summary.lost_queries = sum(rows.values()), sum(queries.values())
        commit_lists(plan)
        return plan.uri

    def _results(self, pool: WorkPool[Call, Any], title: str, calls: Sequence[Call]) -> Iterator[Any]:
        """Yield the result of every call as it comes.

        Raises:
            RunError: Some calls were given up; raised when all others have ended.
        """
        self._bars.begin(title, len(calls))
        failed: list[BaseException] = []
        for outcome in pool.run(calls, RetryPolicy[Call](_MAX_TRIES, on_failure=_raise_config_error)):
            self._record.beat()
            if outcome is None:
                continue
            if outcome.error is not None:
                failed.append(outcome.error)
                continue
            self._bars.advance()
            yield outcome.result
        if failed:
            raise RunError(
                f"{title}: {len(failed)} of {len(calls)} failed {_MAX_TRIES} times, all others are done; first: "
                f"{type(failed[0]).__name__}: {failed[0]}; fix the cause and run the same command again: "
                "only what failed is done again"
            )


def prefix_dims(table: VectorTable, config: ShortlistConfig) -> tuple[int, ...]:
    """Return the dims of the prefix columns that a config asks for.

    Raises:
        DimError: The space must not be cut to one of them.
    """
    return check_dims(table, table.space.ladder.dims[:-1] if config.dims is None else config.dims)


def _raise_config_error(error: BaseException) -> None:
    """End the run: every other call would fail in the same way."""
    if isinstance(error, ConfigError):
        raise error
