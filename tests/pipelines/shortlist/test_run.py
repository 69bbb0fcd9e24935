"""A run of prefixes, indexes and lists, in this process; what fails three times is told and the rest kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.shortlist.run import Call, CallWorker, ShortlistRun, prefix_dims
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import PrefixIndexConfig, ShortlistConfig
from schemas.errors import ConfigError, DimError, RunError
from tests.support.local_pool import LocalPool
from tests.support.small_tables import vectors


class CountedBars:
    """Counts the steps and their items."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[int, int]] = {}

    def begin(self, title: str, total: int) -> None:
        self._title = title
        self.steps[title] = (0, total)

    def advance(self) -> None:
        done, total = self.steps[self._title]
        self.steps[self._title] = (done + 1, total)


def run_of(table: VectorTable, **blocks: Any) -> tuple[ShortlistRun, CountedBars]:
    blocks["lists"] = {"memory_bytes": 16 << 30} | blocks.get("lists", {})  # all that this process holds counts
    config = ShortlistConfig(table=table.uri, index=PrefixIndexConfig(type="IVF_FLAT", partitions=2), **blocks)
    bars = CountedBars()
    record = RunRecord(table, "shortlist", config)
    return ShortlistRun(config, table, prefix_dims(table, config), record, bars), bars


def local_pool(error_of: Callable[[Call], BaseException | None] = lambda call: None) -> LocalPool[Call, Any]:
    return LocalPool(CallWorker(threads=1), error_of, actors=2)


def test_every_step_is_done_and_nothing_twice(make_table: Callable[..., VectorTable]) -> None:
    table = make_table(vectors(300, 1), vectors(200, 2))
    run, bars = run_of(table, dims=(8,), lists={"k": 3})
    run.run(local_pool())
    assert (run.summary.fragments, run.summary.indexed, run.summary.searches) == (2, (8,), 1)
    assert bars.steps == {"prefixes": (2, 2), "index 8": (2, 2), "searches": (1, 1)}
    again, _ = run_of(table.refresh(), dims=(8,), lists={"k": 3})
    again.run(local_pool())
    assert (again.summary.fragments, again.summary.indexed, again.summary.searches) == (0, (), 0)
    assert again.summary.lists == run.summary.lists


def test_what_fails_again_and_again_is_told_and_the_rest_kept(make_table: Callable[..., VectorTable]) -> None:
    table = make_table(vectors(300, 1))
    run, _ = run_of(table, dims=(8,), lists={"k": 3})
    pool = local_pool(lambda call: OSError("no answer") if "search" in repr(call) else None)
    with pytest.raises(RunError, match=r"searches: \d of \d failed 3 times, all others are done; first: OSError: no"):
        run.run(pool)
    assert table.refresh().prefix_dims == (8,)
    (row,) = table.companion("runs").to_table().to_pylist()
    assert (row["state"], json.loads(row["summary"])["fragments"]) == ("incomplete", 1)


def test_a_wrong_config_ends_the_run_at_once(make_table: Callable[..., VectorTable]) -> None:
    table = make_table(vectors(300, 1))
    run, _ = run_of(table, dims=(8,))
    with pytest.raises(ConfigError, match="too small"):
        run.run(local_pool(lambda call: ConfigError("too small")))
    (row,) = table.companion("runs").to_table().to_pylist()
    assert row["state"] == "failed"


def test_prefixes_are_every_rung_below_the_full_width_unless_named(make_table: Callable[..., VectorTable]) -> None:
    table = make_table(vectors(10, 1))
    assert prefix_dims(table, ShortlistConfig(table=table.uri)) == (8, 16)
    assert prefix_dims(table, ShortlistConfig(table=table.uri, dims=(16,))) == (16,)
    with pytest.raises(DimError):
        prefix_dims(table, ShortlistConfig(table=table.uri, dims=(9,)))
