"""The journal of a table, `<table>.runs.lance`: which job ran with which config, when it was last seen, how it ended.

Owns the rows of the journal. A run counts as living while its last entry is younger than `ALIVE_FOR`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import uuid
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from pipelines.storage.addresses import sibling
from pipelines.tables.commits import upsert
from pipelines.tables.table import VectorTable
from schemas.columns import RUNS
from schemas.journal import JournalEntry, journal_entry
from schemas.redaction import redact

ALIVE_FOR = dt.timedelta(minutes=15)
BEAT_S = 60.0


class RunRecord:
    """One run's row in the journal.

    Attributes:
        run: Id of the run.
    """

    def __init__(self, table: VectorTable, job: str, config: BaseModel) -> None:
        """Record the start of a run, with its resolved config."""
        self.run = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self._table, self._job, self._config = table, job, redact(config.model_dump_json())
        self._started_at = self._seen_at = dt.datetime.now(dt.UTC)
        self._write("running", {})

    def beat(self) -> None:
        """Record that the run is alive, once a minute at most. If the store fails, the next try is a minute later."""
        if (dt.datetime.now(dt.UTC) - self._seen_at).total_seconds() >= BEAT_S:
            with contextlib.suppress(OSError):
                self._write("running", {})

    def end(self, state: str, summary: dict[str, Any]) -> None:
        """Record the end of the run: `complete`, `incomplete`, `stopped` or `failed`."""
        self._write(state, summary)

    def _write(self, state: str, summary: dict[str, Any]) -> None:
        self._seen_at = dt.datetime.now(dt.UTC)
        row = {
            "run": self.run,
            "job": self._job,
            "state": state,
            "started_at": self._started_at,
            "seen_at": self._seen_at,
            "config": self._config,
            "summary": redact(json.dumps(summary)),
        }
        rows = pa.Table.from_pylist([row], schema=RUNS)
        upsert(sibling(self._table.uri, "runs"), ["run"], rows, self._table.storage)


def read_journal(table: VectorTable) -> list[JournalEntry]:
    """Return every run that the journal holds, the oldest first.

    Raises:
        TableError: The journal is of a newer format, or malformed.
    """
    rows = table.companion("runs").to_table(columns=RUNS.names).sort_by("started_at").to_pylist()
    return [journal_entry(row, sibling(table.uri, "runs")) for row in rows]


def living_runs(table: VectorTable) -> list[str]:
    """Return the ids of the runs that have not ended and were seen in the last 15 minutes."""
    since = dt.datetime.now(dt.UTC) - ALIVE_FOR
    return [entry.run for entry in read_journal(table) if entry.state == "running" and entry.seen_at > since]
