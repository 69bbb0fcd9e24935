"""The journal records which run did what, and which runs are alive."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.tables.fencing import store_now
from pipelines.tables.runs import ALIVE_FOR, RunRecord, living_runs
from pipelines.tables.table import VectorTable
from schemas.config import LimitsConfig
from schemas.errors import RunError
from tests.support.small_tables import new_table


def journal(table: VectorTable) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.companion("runs").to_table().to_pylist()
    return rows


def test_a_run_is_one_row_from_its_start_to_its_end(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    record = RunRecord(table, "embed", LimitsConfig(max_tries=7))
    (row,) = journal(table)
    assert (row["run"], row["job"], row["state"]) == (record.run, "embed", "running")
    assert json.loads(row["config"])["max_tries"] == 7
    assert living_runs(table) == [record.run]
    record.end("complete", {"rows": 3})
    (row,) = journal(table)
    assert (row["state"], json.loads(row["summary"])) == ("complete", {"rows": 3})
    assert row["started_at"] <= row["seen_at"]
    assert living_runs(table) == []


def test_a_run_that_beats_is_alive_and_one_that_does_not_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    silent, beating = RunRecord(table, "embed", LimitsConfig()), RunRecord(table, "embed", LimitsConfig())
    version = table.companion("runs").version
    beating.beat()
    assert table.companion("runs").version == version  # it was seen a moment ago
    later = store_now(table.uri, table.storage) + ALIVE_FOR
    monkeypatch.setattr("pipelines.tables.runs.store_now", lambda uri, storage: later)
    monkeypatch.setattr("pipelines.tables.runs.BEAT_S", 0.0)
    beating.beat()
    assert table.companion("runs").version == version + 1
    assert living_runs(table) == [beating.run]
    assert silent.run != beating.run


def test_the_store_says_who_is_alive_not_the_clock_of_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    for hours in (-30, 30):

        class Wrong(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None, hours: int = hours) -> dt.datetime:
                return dt.datetime.now(tz) + dt.timedelta(hours=hours)

        with monkeypatch.context() as patch:
            for module in ("runs", "fencing", "maintenance"):
                patch.setattr(f"pipelines.tables.{module}.dt.datetime", Wrong)
            run = RunRecord(table, "embed", LimitsConfig()).run
        assert run in living_runs(table)


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "complete"), (KeyboardInterrupt(), "stopped"), (RunError("x"), "incomplete"), (OSError("x"), "failed")],
)
def test_a_block_ends_its_run_however_it_ends(tmp_path: Path, error: BaseException | None, state: str) -> None:
    table = new_table(tmp_path)

    def work() -> None:
        with RunRecord(table, "rotate", {"k": 1}) as record:
            assert living_runs(table) == [record.run]
            record.summary["rows"] = 3
            if error is not None:
                raise error

    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        work()
    (row,) = journal(table)
    assert (row["job"], row["state"], json.loads(row["summary"])["rows"]) == ("rotate", state, 3)
    assert living_runs(table) == []


def test_runs_that_write_at_once_keep_a_row_each(tmp_path: Path) -> None:
    table = new_table(tmp_path)

    def live(number: int) -> str:
        record = RunRecord(VectorTable.open(table.uri), "embed", LimitsConfig())
        record.end("complete", {"number": number})
        return record.run

    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(live, range(6)))
    assert sorted(row["run"] for row in journal(table)) == sorted(runs)
    assert {row["state"] for row in journal(table)} == {"complete"}
