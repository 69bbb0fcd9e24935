"""The journal of a table, `<table>.runs.lance`: which job ran with which config, when it was last seen, how it ended.

Owns the rows of the journal. Every job that writes files of a table has a `RunRecord`, so that `mlake clean` knows of
it. A run counts as living while its last entry is younger than `ALIVE_FOR`. Times are those of the table's store, so
that machines whose clocks differ agree on who is alive.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from pydantic import BaseModel

from pipelines.storage.addresses import sibling
from pipelines.tables.companion_commits import upsert
from pipelines.tables.companions import ensure_companion, read_companion
from pipelines.tables.fencing import store_now
from pipelines.tables.table import VectorTable
from schemas.columns import RUNS
from schemas.errors import RunError, is_interrupt, stored_text
from schemas.journal import JournalEntry, journal_entry
from schemas.last_words import last_word
from schemas.redaction import redact
from schemas.source import TableSource

ALIVE_FOR = dt.timedelta(minutes=15)
BEAT_S = 60.0


class RunRecord:
    """One run's row in the journal.

    In a `with` block a thread records once a minute that the run is alive, and the end of the block that it ended,
    unless `end` was called before.

    Attributes:
        run: Id of the run.
        summary: What the run did, for the journal; `end` may replace it.

    Example:
        >>> with RunRecord(table, "rotate", {}) as record:  # doctest: +SKIP
        ...     record.summary["fragments"] = rotate(table)
    """

    def __init__(self, table: VectorTable, job: str, config: BaseModel | Mapping[str, Any]) -> None:
        """Record the start of a run, with its resolved config."""
        self.summary: dict[str, Any] = {}
        self._table, self._job = table, job
        self._config = redact(config.model_dump_json() if isinstance(config, BaseModel) else json.dumps(dict(config)))
        self._lock, self._over = threading.RLock(), threading.Event()
        self._entered = contextlib.ExitStack()
        ensure_companion(table, "runs")
        self._started_at = store_now(table.uri, table.storage)
        self.run = f"{self._started_at:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self._seen_s = 0.0
        self._write("running", {})

    def __enter__(self) -> Self:
        """Start to record that the run is alive."""
        self._thread = threading.Thread(target=self._beat_until_over, name="journal", daemon=True)
        self._thread.start()
        self._entered.enter_context(last_word(self._end_if_open))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record the end of the run."""
        self._entered.close()
        self._end_if_open(error)
        self._thread.join()

    def beat(self) -> None:
        """Record that the run is alive, once a minute at most. If the store fails, the next try is a minute later."""
        if time.monotonic() - self._seen_s >= BEAT_S and not self._over.is_set():
            with contextlib.suppress(OSError):
                self._write("running", {})

    def end(self, state: str, summary: dict[str, Any]) -> None:
        """Record the end of the run: `complete`, `incomplete`, `stopped` or `failed`."""
        with self._lock:
            self._over.set()
            self._write(state, summary)

    def _end_if_open(self, error: BaseException | None) -> None:
        with self._lock:  # an end that is being written is waited for
            if not self._over.is_set():
                self.end(state_after(error), self.summary | ({} if error is None else {"error": stored_text(error)}))

    def _beat_until_over(self) -> None:
        while not self._over.wait(BEAT_S / 4):
            self.beat()

    def _write(self, state: str, summary: dict[str, Any]) -> None:
        with self._lock:
            if state == "running" and self._over.is_set():
                return
            self._seen_s = time.monotonic()
            row = {
                "run": self.run,
                "job": self._job,
                "state": state,
                "started_at": self._started_at,
                "seen_at": store_now(self._table.uri, self._table.storage),
                "config": self._config,
                "summary": redact(json.dumps(summary)),
            }
            rows = pa.Table.from_pylist([row], schema=RUNS)
            upsert(sibling(self._table.uri, "runs"), ["run"], rows, self._table.storage)


def state_after(error: BaseException | None) -> str:
    """Return the state of a run that ended with an error, or without one."""
    if error is None:
        return "complete"
    if is_interrupt(error):
        return "stopped"
    return "incomplete" if isinstance(error, RunError) else "failed"


def read_journal(table: VectorTable) -> list[JournalEntry]:
    """Return every run that the journal holds, the oldest first.

    Raises:
        TableError: The journal is of a newer format, or malformed.
    """
    rows = read_companion(table, "runs").sort_by("started_at").to_pylist()
    return [journal_entry(row, sibling(table.uri, "runs")) for row in rows]


def recorded_source(table: VectorTable) -> TableSource | None:
    """Return what the rows of a table are made from; None where neither the table nor its journal knows it.

    The first release wrote it into the journal only.
    """
    if table.source is not None:
        return table.source
    for entry in reversed(read_journal(table)):
        fields, encoder = entry.config.get("input"), entry.config.get("encoder")
        if entry.job != "embed" or not isinstance(fields, dict) or not isinstance(encoder, dict):
            continue
        for modality in ("text", "image", "vector"):
            if fields.get(modality):
                side = encoder.get("side", "document")
                return TableSource(id=fields.get("id"), modality=modality, field=fields[modality], side=side)
    return None


def shortlists_of(table: VectorTable) -> list[str]:
    """Return the addresses at which the runs of a table made shortlist tables, and the one beside it."""
    named = (entry.summary.get("lists") for entry in read_journal(table))
    return list(dict.fromkeys([sibling(table.uri, "shortlist"), *(uri for uri in named if isinstance(uri, str))]))


def living_runs(table: VectorTable, now: dt.datetime | None = None, alive_for: dt.timedelta = ALIVE_FOR) -> list[str]:
    """Return the ids of the runs that have not ended and were seen in the last 15 minutes.

    Args:
        table: The table.
        now: Time of the table's store; None asks it.
        alive_for: How long a run lives without an entry.
    """
    since = (now or store_now(table.uri, table.storage)) - alive_for
    return [entry.run for entry in read_journal(table) if entry.state == "running" and entry.seen_at > since]
