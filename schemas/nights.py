"""Nights as they are stored: one record for each run of `mlake nightly`, which is its lock while it runs.

Owns the record and its checks. Owns no write (`pipelines.tables.night_log`).
"""

from __future__ import annotations

import datetime as dt
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.publications import GateResult
from schemas.stored import Format, Stored

NightState = Literal["running", "nothing", "published", "unfinished", "refused", "held", "failed", "stopped", "erased"]


class NightCounts(BaseModel):
    """What a night found and did.

    Attributes:
        new: Shards that were not in the table.
        changed: Shards whose content is another one.
        vanished: Shards that are in the table, and whose files are gone.
        unchanged: Shards that are in the table as they are.
        expected_rows: Rows that the plan expected to encode.
        encoded: Rows that were encoded.
        reused: Rows whose vector was taken from a row of equal content.
        derived: Rows whose vector was made from that of an older generation, by a rotation or a head.
        erased: Samples that were left out, since `mlake delete` has erased them.
        withdrawn: Rows that were removed with their shards.
        rejects: Samples that could not be embedded.
        rows: Rows of the table afterwards.
    """

    model_config = ConfigDict(extra="forbid")

    new: int = 0
    changed: int = 0
    vanished: int = 0
    unchanged: int = 0
    expected_rows: int = 0
    encoded: int = 0
    reused: int = 0
    derived: int = 0
    erased: int = 0
    withdrawn: int = 0
    rejects: int = 0
    rows: int = 0


class Night(Stored):
    """One night.

    Attributes:
        number: Its place among the nights of a table, from 1. The one with the highest number holds the lock.
        run: Id of the process that runs it.
        host: Name of its machine.
        state: `running`; `nothing` (there was nothing to do); `published`; `unfinished` (the budget ended, the next
            night goes on); `refused` (the audit failed, `prod` stays); `held` (the audit passed, and `prod` stays as
            somebody has rolled it back or hidden it); `failed`; `stopped`; `erased` (`mlake delete`
            had the lock).
        started_at: By the clock of the table's store.
        ended_at: None while it runs.
        generation: The generation that it worked on.
        version: Its version that was audited; 0 before that.
        counts: What it found and did.
        seconds: Seconds by step: `plan`, `transform`, `embed`, `tidy`, `derive`, `audit`, `publish`, `retain`.
        price_per_hour: What an hour of the machines costs, where the config says it.
        bound_by: The stage of embedding that the others waited for.
        audit: The checks that were made.
        publication: Number of the publication; None without one.
        freed: Bytes of old generations, versions and orphans that were removed.
        retired: Numbers of the generations that were removed.
        error: Why it ended otherwise.
    """

    stored_as: ClassVar[Format] = Format(
        "the night's record",
        ("0.2",),
        remedy="remove the file: it is a record, and no data",
        is_numbered_from_first=True,
    )

    number: int = Field(ge=1)
    run: str
    host: str = ""
    state: NightState
    started_at: dt.datetime
    ended_at: dt.datetime | None = None
    generation: int = Field(1, ge=1)
    version: int = Field(0, ge=0)
    counts: NightCounts = NightCounts()
    seconds: dict[str, float] = Field({})
    price_per_hour: float | None = None
    bound_by: str = ""
    audit: tuple[GateResult, ...] = ()
    publication: int | None = None
    freed: int = 0
    retired: tuple[int, ...] = ()
    error: str = ""

    @property
    def minutes(self) -> float:
        """Minutes of all steps."""
        return sum(self.seconds.values()) / 60

    @property
    def cost(self) -> float | None:
        """What the machines cost; None where no price is known."""
        return None if self.price_per_hour is None else self.minutes / 60 * self.price_per_hour
