"""The journal of a table, as it is stored: one row for each run of a job.

Owns what a row means; its columns are in `schemas.columns.RUNS`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.stored import Format

_CONFIG = Format("the config of a run in the journal")
_SUMMARY = Format("the summary of a run in the journal")


@dataclass(frozen=True)
class JournalEntry:
    """One run.

    Attributes:
        run: Id of the run.
        job: Name of the job, such as `embed`.
        state: `running`, `complete`, `incomplete`, `stopped` or `failed`.
        started_at: When it started, UTC.
        seen_at: When it was last seen alive, UTC.
        config: Its resolved config.
        summary: What it did; empty while it runs.
    """

    run: str
    job: str
    state: str
    started_at: dt.datetime
    seen_at: dt.datetime
    config: Mapping[str, Any]
    summary: Mapping[str, Any]


def journal_entry(row: Mapping[str, Any], where: str) -> JournalEntry:
    """Read a row of the journal, of this release or an earlier one.

    Args:
        row: The columns of `RUNS`.
        where: Address of the journal.

    Raises:
        TableError: Its JSON is of a newer format, or malformed.
    """
    config, _ = _CONFIG.read_object(row["config"], where)
    summary, _ = _SUMMARY.read_object(row["summary"], where)
    return JournalEntry(**{**row, "config": config, "summary": summary})
