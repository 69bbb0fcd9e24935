"""The nouns that travel between stages: Shard, Lease, Reject, LeaseResult, StageSeconds.

They are plain and small: they cross process borders, so nothing here holds sample data except a SampleBlock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Literal

import pyarrow as pa

Modality = Literal["text", "image", "vector"]
Side = Literal["document", "query"]
ShardFormat = Literal["webdataset", "parquet", "jsonl", "lance"]


@dataclass(frozen=True)
class Shard:
    """One input file, known by identity (uri, size, etag) and never by its position in a listing.

    Attributes:
        uri: Absolute local path, `s3://bucket/key`, or another fsspec address.
        size: Bytes.
        etag: What changes when the content does: S3's ETag, or local mtime in nanoseconds.
        format: How its samples are laid out.
    """

    uri: str
    size: int
    etag: str
    format: ShardFormat

    @cached_property
    def id(self) -> int:
        """Identity as a positive int64: what the `shard` column of a table holds."""
        digest = hashlib.sha256(f"{self.uri}\0{self.size}\0{self.etag}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


DAMAGE = frozenset({"truncated_shard", "corrupt_shard", "corrupt_row_group"})
"""Reasons of rejects that stand for a stretch of a shard, not for one sample."""


@dataclass(frozen=True)
class Reject:
    """A sample that could not be embedded, with its reason.

    Attributes:
        shard: Identity of the shard (`Shard.id`).
        position: 0-based place of the sample in its shard.
        key: The sample's id, or an empty string where it has none.
        reason: Short class of the cause, for counting: `empty_text`, `bad_image`, `timeout`, …
        message: What exactly was wrong.
    """

    shard: int
    position: int
    key: str
    reason: str
    message: str


@dataclass(frozen=True)
class SampleBlock:
    """A run of neighbouring samples of one shard, as read.

    Attributes:
        rows: Columns `id` (string), `position` (int64), `input` (string for text, binary for images), then the kept
            columns under their own names. `input` has no nulls; `id` is unique within the shard.
        rejects: Samples of the same stretch that could not even be read.
    """

    rows: pa.RecordBatch
    rejects: Sequence[Reject] = ()


@dataclass(frozen=True)
class Lease:
    """Shards that one actor embeds as one stream and that land together.

    Attributes:
        shards: One large shard, or neighbours up to `limits.lease_bytes`.
        tries: How often this lease, or one that held these shards, has failed before.
    """

    shards: tuple[Shard, ...]
    tries: int = 0


@dataclass
class StageSeconds:
    """Seconds that one lease spent in each stage.

    Attributes:
        read: The feeder waited for the reader.
        prepare: The feeder tokenised or decoded.
        encode: The encoder worked, or waited for its turn.
        encoder_waited: The encoder had no input.
        write: The encoder waited for the writer.
        total: From first to last.
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


@dataclass(frozen=True)
class ShardCount:
    """What became of one shard's samples."""

    shard: Shard
    rows: int
    rejects: int


@dataclass(frozen=True)
class LeaseResult:
    """What an actor hands to the committer: fragments written but not yet visible.

    Attributes:
        counts: One entry per shard of the lease.
        fragments: JSON of the uncommitted Lance fragments (`FragmentMetadata`).
        rejects: Rejected samples of all shards of the lease.
        units: Tokens or images encoded.
        seconds: Where the time went.
    """

    counts: tuple[ShardCount, ...]
    fragments: tuple[str, ...]
    rejects: tuple[Reject, ...]
    units: int
    seconds: StageSeconds = field(default_factory=StageSeconds)
