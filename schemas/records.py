"""The records that travel between stages and processes: Shard, Reject, SampleBlock, Lease, LeaseResult, and others.

They are plain and small: they are pickled between processes. Only a SampleBlock holds sample data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Literal

import pyarrow as pa

from schemas.redaction import unsigned

Modality = Literal["text", "image", "vector"]
Side = Literal["document", "query"]
IdPrefix = Literal["none", "shard"]
ShardFormat = Literal["webdataset", "parquet", "jsonl", "lance"]


@dataclass(frozen=True)
class Shard:
    """One input file. Its identity is (name, size, etag), never its position in a listing.

    Attributes:
        uri: Address to read it from: absolute local path, `s3://bucket/key`, or another fsspec address.
        size: Bytes.
        etag: Changes when the content does: S3's ETag, or local mtime in nanoseconds.
        format: Layout of its samples.
        known_as: Address under which a table knows it already; empty where that is `unsigned(uri)`.
    """

    uri: str
    size: int
    etag: str
    format: ShardFormat
    known_as: str = ""

    @property
    def name(self) -> str:
        """Address as tables store it: without passwords and signatures, which change while the file does not."""
        return self.known_as or unsigned(self.uri)

    @cached_property
    def id(self) -> int:
        """Identity as a positive int64, as in the `shard` column of a table."""
        digest = hashlib.sha256(f"{self.name}\0{self.size}\0{self.etag}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


IMAGE_SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""Endings of image files, in lower case; every one of them can be decoded."""

DAMAGE = frozenset({"truncated_shard", "corrupt_shard", "corrupt_row_group"})
"""Reasons of rejects that stand for a part of a shard that cannot be read, not for one sample."""


@dataclass(frozen=True)
class Reject:
    """A sample that could not be embedded, with its reason.

    Attributes:
        shard: Identity of the shard (`Shard.id`).
        position: 0-based place of the sample in its shard.
        key: The sample's id, or an empty string where it has none.
        reason: Short class of the cause, for counting: `empty_text`, `bad_image`, `timeout`, …
        message: The cause in full.
    """

    shard: int
    position: int
    key: str
    reason: str
    message: str


@dataclass(frozen=True)
class SampleBlock:
    """Neighbouring samples of one shard, as read and checked.

    Attributes:
        rows: Columns `id` (string), `position` (int64), `input` (string for text, binary for images), then the kept
            columns under their own names. `input` has no nulls; `id` is unique within the shard.
        rejects: Samples among them that could not be read.
    """

    rows: pa.RecordBatch
    rejects: Sequence[Reject] = ()


@dataclass(frozen=True)
class Lease:
    """Shards that one actor embeds as one stream and that are committed together.

    Attributes:
        shards: One large shard, or neighbours up to `limits.lease_bytes` and `limits.lease_shards`.
    """

    shards: tuple[Shard, ...]


@dataclass
class StageSeconds:
    """Seconds that one lease spent in each stage.

    Attributes:
        read: The feeder waited for the reader.
        prepare: The feeder tokenised or decoded.
        encode: The encoder worked, or waited for another lease's batch.
        encoder_waited: The encoder had no input.
        write: The encoder waited for the writer.
        total: From the start of the lease to its end.
    """

    read: float = 0.0
    prepare: float = 0.0
    encode: float = 0.0
    encoder_waited: float = 0.0
    write: float = 0.0
    total: float = 0.0

    def __add__(self, other: StageSeconds) -> StageSeconds:
        """Sum stage by stage."""
        return StageSeconds(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def bound_by(self) -> str:
        """The stage that the others waited for: read, prepare, encode or write."""
        if self.encoder_waited <= 0.1 * self.total and self.write <= 0.1 * self.total:
            return "encode"
        if self.write > self.encoder_waited:
            return "write"
        return "read" if self.read > self.prepare else "prepare"


@dataclass(frozen=True)
class ShardCount:
    """How many samples of one shard became rows, and how many rejects."""

    shard: Shard
    rows: int
    rejects: int


@dataclass(frozen=True)
class WorkerCounters:
    """What one actor has counted since it was up, as it was when it finished a lease.

    Attributes:
        actor: Names the actor within the run.
        counters: As `Worker.progress` returns them.
    """

    actor: str
    counters: dict[str, int]


@dataclass(frozen=True)
class TextCounts:
    """What encoders got of texts. All are 0 where no tokeniser here counts, as where a server does.

    Attributes:
        tokens: Tokens of the whole texts, with prompts and marks, without padding.
        cut_texts: Texts that have more tokens than the encoder takes.
        cut_tokens: Tokens that it did not get.
    """

    tokens: int = 0
    cut_texts: int = 0
    cut_tokens: int = 0

    def __add__(self, other: TextCounts) -> TextCounts:
        """Add up counts."""
        return TextCounts(
            self.tokens + other.tokens, self.cut_texts + other.cut_texts, self.cut_tokens + other.cut_tokens
        )


@dataclass(frozen=True)
class Usage:
    """What a served encoder was asked for.

    Attributes:
        requests: Answered requests.
        tokens: Tokens of their texts: as the server counts them, or estimated from the characters where it does not.
        estimated_tokens: How many of them are estimated.
        cost: What they cost, in the currency of the description's price; None where it names no price.
    """

    requests: int = 0
    tokens: int = 0
    estimated_tokens: int = 0
    cost: float | None = None

    @classmethod
    def of(cls, counters: Mapping[str, int]) -> Usage | None:
        """Read it from the counters of workers; None where no server was asked."""
        if not counters.get("served_requests"):
            return None
        millionths = counters.get("served_cost_millionths")
        return cls(
            requests=counters["served_requests"],
            tokens=counters.get("served_tokens", 0),
            estimated_tokens=counters.get("served_estimated_tokens", 0),
            cost=None if millionths is None else millionths / 1e6,
        )


def most_usage(*counted: Usage | None) -> Usage | None:
    """Return the largest of several counts, some of which are older than others."""
    return max((usage for usage in counted if usage is not None), key=lambda usage: usage.tokens, default=None)


@dataclass(frozen=True)
class LeaseResult:
    """An embedded lease: fragments that are written but not yet visible.

    Attributes:
        counts: One entry for each shard of the lease.
        fragments: JSON of the uncommitted Lance fragments (`FragmentMetadata`).
        rejects: Rejected samples of all shards of the lease.
        units: Tokens or images encoded.
        texts: What the encoder got of texts.
        reused: Rows whose vector was taken from a sample of equal content.
        erased: Samples left out, since `mlake delete` has erased them.
        seconds: Time by stage.
        worker: What the actor has counted, this lease included; None where no actor embedded it.
        memory: State of what is remembered of erased samples (`ErasedMemory.version`) that it left out.
    """

    counts: tuple[ShardCount, ...]
    fragments: tuple[str, ...]
    rejects: tuple[Reject, ...]
    units: int
    texts: TextCounts = field(default_factory=TextCounts)
    reused: int = 0
    erased: int = 0
    seconds: StageSeconds = field(default_factory=StageSeconds)
    worker: WorkerCounters | None = None
    memory: int = 0


@dataclass(frozen=True)
class EmbedProgress:
    """How far a run of `mlake embed` is.

    Attributes:
        shards: Shards embedded, of `shards_total`.
        landed: Shards whose rows are visible.
        landed_rows: Rows that are visible.
        commits: Commits to the table, which took `commit_s` seconds.
        rows: Rows encoded.
        units: Tokens or images encoded (`unit`).
        rejects: Samples that could not be embedded.
        failed: Shards given up.
        failed_leases: Tries of leases that failed.
        open_leases: Leases that wait or are worked on.
        actors: Encoder actors, those that are not up included.
        pending_actors: Encoder actors that are not up.
        encoder_busy: Share of the last seconds in which the encoders worked.
        bound_by: The stage that the run waits for: encode, read, prepare, write, or start (no actor is up yet).
        usage: What a served encoder was asked for; None where the encoder is here.
        oldest_leases: The leases that are worked on for longest: the first shard, how many shards, and the seconds.
    """

    shards: int = 0
    shards_total: int = 0
    landed: int = 0
    landed_rows: int = 0
    commits: int = 0
    commit_s: float = 0.0
    rows: int = 0
    units: int = 0
    unit: str = "tokens"
    rejects: int = 0
    failed: int = 0
    failed_leases: int = 0
    open_leases: int = 0
    actors: int = 0
    pending_actors: int = 0
    encoder_busy: float = 0.0
    bound_by: str = "start"
    usage: Usage | None = None
    oldest_leases: tuple[tuple[str, int, float], ...] = ()
