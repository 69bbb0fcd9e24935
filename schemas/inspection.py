"""What `mlake inspect` knows of a table: the layout of its JSON, and what a notebook shows.

Owns the fields; reads no table (`pipelines.reports.inspection`).
"""

from __future__ import annotations

import datetime as dt

from pydantic import ConfigDict

from schemas.html import ShownAsHtml


class _Part(ShownAsHtml):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnSize(_Part):
    """A column, and the bytes that it takes on the storage at this version."""

    name: str
    type: str
    bytes: int


class IndexState(_Part):
    """A Lance index. `unindexed_rows` are scanned beside it until the next `mlake shortlist`."""

    name: str
    column: str
    type: str
    rows: int
    unindexed_rows: int


class FunnelState(_Part):
    """A funnel, and whether its recall card still speaks of the table.

    Attributes:
        home: `memory`, `codes` or `lake`.
        k: Results per query that it was tuned for.
        recall: Recall that its card confirms, with the interval `low` to `high`.
        low: Lower end.
        high: Upper end.
        rows_then: Rows of the table when it was measured.
        rows_now: Rows now.
        problem: Why the card does not hold, or the funnel cannot be used; empty where all is well.
        slower: That it saves no time; empty where it does.
    """

    home: str
    k: int | None = None
    recall: float | None = None
    low: float | None = None
    high: float | None = None
    rows_then: int | None = None
    rows_now: int
    problem: str = ""
    slower: str = ""


class RejectCount(_Part):
    """Rejected samples of one reason."""

    reason: str
    samples: int


class RunState(_Part):
    """A run of the journal. `state` is `running`, `dead`, `complete`, `failed`, … as the journal says.

    `cut_texts` are those that were longer than the encoder takes, `cut_tokens` the tokens of all texts that it did not
    get, of `text_tokens`. None where the job or its release counts none, or the encoder does not say how it cuts.
    """

    run: str
    job: str
    state: str
    started_at: dt.datetime
    rows: int | None = None
    cut_texts: int | None = None
    cut_tokens: int | None = None
    text_tokens: int | None = None


class PublishedNow(_Part):
    """What readers of `prod` see."""

    number: int
    at: dt.datetime
    generation: int
    version: int
    rows: int


class Inspection(_Part):
    """A table, as `mlake inspect --json` prints it.

    Attributes:
        uri: Its address.
        version: The version that was looked at.
        rows: Its rows.
        deleted_rows: Rows that were deleted and are still in its files.
        shards: Shards with rows in it.
        fragments: Its fragments.
        encoder: Name of the encoder.
        revision: Its revision.
        space: Fingerprint of the space.
        is_rotated: Whether a rotation was applied to the vectors.
        dims: The ladder.
        prefix_dims: Dims with a column of their own.
        bytes: Bytes of all columns.
        columns: Each column.
        versions: Versions that can be opened.
        first_version_at: When the oldest of them was committed.
        last_version_at: When the newest was.
        tags: Lance tags, by name.
        prod: What is published; None where nothing is.
        indexes: The indexes.
        funnels: The funnels.
        rejects: Rejected samples by reason, most first.
        runs: The last runs, newest first.
        next: What to do, a sentence each.
    """

    uri: str
    version: int
    rows: int
    deleted_rows: int
    shards: int
    fragments: int
    encoder: str
    revision: str
    space: str
    is_rotated: bool
    dims: tuple[int, ...]
    prefix_dims: tuple[int, ...]
    bytes: int
    versions: int
    first_version_at: dt.datetime
    last_version_at: dt.datetime
    tags: dict[str, int]
    prod: PublishedNow | None
    columns: tuple[ColumnSize, ...]
    indexes: tuple[IndexState, ...]
    funnels: tuple[FunnelState, ...]
    rejects: tuple[RejectCount, ...]
    runs: tuple[RunState, ...]
    next: tuple[str, ...]
