"""A row of the journal is read with its config and summary; what is malformed is refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas.columns import RUNS
from schemas.errors import TableError
from schemas.journal import journal_entry

ROW: dict[str, Any] = {
    "run": "r",
    "job": "embed",
    "state": "complete",
    "started_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "seen_at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    "config": '{"table": "t"}',
    "summary": '{"rows": 3}',
}


def test_a_row_becomes_an_entry() -> None:
    assert set(ROW) == set(RUNS.names)
    entry = journal_entry(ROW, "t.runs.lance")
    assert (entry.run, entry.config, entry.summary) == ("r", {"table": "t"}, {"rows": 3})


@pytest.mark.parametrize("column", ["config", "summary"])
def test_malformed_and_newer_rows_are_refused(column: str) -> None:
    for text, said in (("[", "is not valid JSON"), ('{"format": 5}', "needs a newer matryoshka-lake")):
        with pytest.raises(TableError, match=f"t.runs.lance: the {column} of a run in the journal .*{said}"):
            journal_entry(ROW | {column: text}, "t.runs.lance")
