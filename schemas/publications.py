"""Publications: what readers of `prod` see, as numbered records beside a table.

A *generation* is one table of one space. Generation 1 is the table at its own address; later ones stand beside it. A
*publication* names a generation and a version of it, together with everything that was published with them. Records are
written once and never changed: the one with the highest number is the truth.

Owns the records and their checks. Owns no address and no write (`pipelines.tables.publication_log`).
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from schemas.cards import TunedFunnel
from schemas.html import ShownAsHtml
from schemas.stored import Fingerprint, Format, Stored

PROD = "prod"
"""The name of the latest publication, and of the Lance tag that follows it."""
MAX_GENERATION = 1_000_000

Action = Literal["publish", "rollback", "fence", "hide"]


class _Record(ShownAsHtml):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedIndex(_Record):
    """A Lance index of the published version.

    Attributes:
        name: Its name.
        column: The indexed column.
        type: Its type, such as `IVF_FLAT`.
    """

    name: str
    column: str
    type: str


class PublishedLists(_Record):
    """A shortlist table that belongs to the published version.

    Attributes:
        uri: Its address.
        version: Its version.
        vectors_version: The version of the searched table that the lists were made of.
    """

    uri: str
    version: int = Field(ge=1)
    vectors_version: int = Field(ge=1)


class PublishedState(_Record):
    """Everything that is published together.

    Attributes:
        generation: Number of the generation; 1 is the table at its own address.
        version: Lance version of that table. Its prefix columns, indexes and funnels are those of this version.
        table_id: Id of that table.
        space: Fingerprint of its space.
        encoder: Name of its encoder.
        rows: Its rows.
        shards: Shards with rows in it.
        rejects: Rejected samples of these shards.
        prefix_dims: Dims with a prefix column.
        indexes: Its Lance indexes.
        shortlists: Its shortlist tables.
        funnels: Its funnels, each with its recall card.
    """

    generation: Annotated[int, Field(ge=1, le=MAX_GENERATION)]
    version: int = Field(ge=1)
    table_id: str
    space: Fingerprint
    encoder: str
    rows: int = Field(ge=0)
    shards: int = Field(ge=0)
    rejects: int = Field(ge=0)
    prefix_dims: tuple[int, ...] = ()
    indexes: tuple[PublishedIndex, ...] = ()
    shortlists: tuple[PublishedLists, ...] = ()
    funnels: tuple[TunedFunnel, ...] = ()

    def is_same_content(self, other: PublishedState | None) -> bool:
        """Tell whether two publications show the same version of the same generation."""
        return other is not None and (self.generation, self.version) == (other.generation, other.version)


class GateResult(_Record):
    """One check of an audit.

    Attributes:
        gate: Its name, such as `recall`.
        passed: Whether it allows the publication.
        measured: What was measured; None where nothing could be.
        bound: The bound that it was compared with.
        setting: Full name of the setting that the bound comes from; empty where the rule has none.
        said: A sentence about it.
        examples: Shards, or judged queries, that show it.
        rows: Ids of rows that show it. They are said once and never stored, since rows may be erased.
    """

    gate: str
    passed: bool
    measured: float | None = None
    bound: float | None = None
    setting: str = ""
    said: str = ""
    examples: tuple[str, ...] = ()
    rows: tuple[str, ...] = Field((), exclude=True)

    @property
    def verdict(self) -> str:
        """What was found, and against which bound, in one sentence."""
        if self.bound is None:
            return f"{self.gate}: {self.said}"
        setting = f" ({self.setting})" if self.setting else ""
        return f"{self.gate}: {self.said}; measured {self.measured:,.4g}, bound {self.bound:,.4g}{setting}"


class Publication(Stored, ShownAsHtml):
    """One record of the log.

    Attributes:
        number: Its place in the log, from 1.
        id: Given by who publishes; a log takes each id once.
        action: `publish` and `rollback` move `prod`, and `hide` takes it away. `fence` leaves it, and makes an older
            run that wants to publish look again.
        at: When it was written, by the clock of the table's store.
        run: Id of the run that made it; empty for a command by hand.
        state: What readers see from now on; None where nothing is published yet, or what was is hidden.
        restores: For a rollback, the number of the publication that is shown again.
        is_forced: It was published although the audit failed, or without one that was asked for.
        audit: The checks that were made.
        note: A sentence by who published.
    """

    stored_as: ClassVar[Format] = Format(
        "the publication", ("0.2",), remedy="restore the file from a copy of the table", is_numbered_from_first=True
    )

    number: int = Field(ge=1)
    id: str = Field(min_length=1)
    action: Action
    at: dt.datetime
    run: str = ""
    state: PublishedState | None
    restores: int | None = None
    is_forced: bool = False
    audit: tuple[GateResult, ...] = ()
    note: str = ""
