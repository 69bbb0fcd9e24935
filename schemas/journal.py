"""The journal of a table, as it is stored: one row for each run of a job.

Owns what a row means, and what the summary of each job holds; the columns are in `schemas.columns.RUNS`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.records import StageSeconds, TextCounts, Usage
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


@dataclass(frozen=True)
class Advice:
    """What bounded a run, or what it wasted.

    Attributes:
        about: `list`, `start`, `encode`, `read`, `prepare`, `write`, `idle` or `commit`: where the time went; or
            `padding`, `cut`, `rejects` or `failures`.
        share: The measured share, of the wall-clock, of the tokens, of the texts, of the samples, or of the leases.
        setting: The setting to change, such as `cluster.actors`; empty where none helps.
        text: All of it as a sentence.
    """

    about: str
    share: float
    setting: str
    text: str


@dataclass(frozen=True)
class Equality:
    """How the vectors of a few samples compare with those of the model's reference implementation.

    Attributes:
        reference: The library, with its version.
        samples: How many were compared.
        cosine: The smallest cosine of two vectors of one sample.
        dtype: Arithmetic of the encoder; the reference's is float32.
        note: Why the reference could not be used; "" where it was.
    """

    reference: str = ""
    samples: int = 0
    cosine: float = 0.0
    dtype: str = ""
    note: str = ""


@dataclass
class EmbedSummary:
    """How a run of `mlake embed` ended; stored in the journal.

    Attributes:
        shards: Shards that the run committed, of `shards_todo`; `shards_done` were in the table before.
        rows: Rows that it committed.
        rejects: Samples that could not be embedded.
        units: Tokens or images that it encoded.
        text_tokens: Tokens of the texts, without padding; 0 where the encoder does not say how it cuts texts.
        cut_texts: Texts of which it encoded only a part, since the encoder takes no more.
        cut_tokens: Tokens that were left out.
        reused: Rows whose vector was taken from a sample of equal content.
        erased: Samples that it left out, since `mlake delete` has erased them.
        seconds: Wall-clock from the first loaded encoder on; `start_s` is the time before, and `plan_s`, which is in
            neither, was spent on listing and planning.
        flush_s: Wall-clock of the commits after the last lease.
        actors: Encoder actors.
        actor_s: Seconds that they were up, in all; the encoders worked for `busy_s` of them, and for `idle_s` there was
            no lease.
        leases: Leases that were embedded.
        failed_leases: Tries of leases that failed.
        batches: Batches that were encoded.
        padding_units: Tokens of padding in them.
        read_bytes: Bytes of the shards that were read.
        written_bytes: Bytes of the fragments that were written.
        commits: Commits to the table, which took `commit_s` seconds.
        bound_by: The stage that the others waited for.
        stages: Seconds in each stage, summed over leases.
        usage: What a served encoder was asked for; None where the encoder is here. Requests before a table is made, as
            for its rotation, are not in it.
        advice: What bounded the run, and which setting to change; the largest share first.
        equality: The comparison with the model's reference, of a run that made its table; None where there is none.
        is_stopped: The run was asked to stop, and did.
    """

    shards: int = 0
    shards_todo: int = 0
    shards_done: int = 0
    rows: int = 0
    rejects: int = 0
    units: int = 0
    text_tokens: int = 0
    cut_texts: int = 0
    cut_tokens: int = 0
    reused: int = 0
    erased: int = 0
    seconds: float = 0.0
    start_s: float = 0.0
    plan_s: float = 0.0
    flush_s: float = 0.0
    actors: int = 0
    actor_s: float = 0.0
    busy_s: float = 0.0
    idle_s: float = 0.0
    leases: int = 0
    failed_leases: int = 0
    batches: int = 0
    padding_units: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    commits: int = 0
    commit_s: float = 0.0
    bound_by: str = ""
    stages: StageSeconds | None = None
    usage: Usage | None = None
    advice: tuple[Advice, ...] = ()
    equality: Equality | None = None
    is_stopped: bool = False

    def add_texts(self, counts: TextCounts) -> None:
        """Add what the encoder got of texts."""
        self.text_tokens += counts.tokens
        self.cut_texts += counts.cut_texts
        self.cut_tokens += counts.cut_tokens

    @property
    def total_s(self) -> float:
        """Wall-clock of the run, start-up included: the seconds that every log and report gives."""
        return self.start_s + self.seconds


@dataclass
class ShortlistSummary:
    """How a run of `mlake shortlist` ended; stored in the journal.

    Attributes:
        fragments: Fragments that got a prefix.
        indexed: Dims whose index was built anew; the indexes of the others were extended by the rows appended since.
        searches: Pairs of a query block and a part of the table that were searched.
        lost_rows: Searched rows that are in no list of the widest dim, since their vectors have no direction (all
            zeros, NaN or infinity).
        lost_queries: Queries without lists for the same reason.
        lists: Address of the shortlist table, if the config asks for one.
    """

    fragments: int = 0
    indexed: tuple[int, ...] = ()
    searches: int = 0
    lost_rows: int = 0
    lost_queries: int = 0
    lists: str | None = None
