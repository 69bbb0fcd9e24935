"""Arrow schemas of every table, the Space they belong to, and the Ladder of dims it may be cut to.

Owns names and types of columns; owns no data. The only module that knows how a space is written into a schema.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import DimNotInLadder, NotMatryoshka, TableError
from schemas.records import Modality

VECTOR = "vector"
SPACE_KEY = b"lake:space"
_SHORTLIST_KEY = b"lake:shortlist"
# Wide vectors default to Lance's "fullzip" layout, whose full scans run at a fifth of this one's speed.
_VECTOR_METADATA = {b"lance-encoding:structural-encoding": b"miniblock"}

Step = Literal["layer_norm", "l2"]


class Ladder(BaseModel):
    """The dims a space may be cut to.

    Attributes:
        dims: Rungs that are offered, ascending; the last is the full width.
        any_from: Where the model was trained for every dim from here to its width: the smallest of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dims: tuple[int, ...] = Field(min_length=1)
    any_from: int | None = None

    @property
    def width(self) -> int:
        """Full width of the vectors."""
        return self.dims[-1]

    def check(self, dim: int, where: str = "this space") -> int:
        """Return `dim` if vectors may be cut there.

        Raises:
            NotMatryoshka: The ladder has one rung and `dim` is below it.
            DimNotInLadder: `dim` is no rung of the ladder.
        """
        if dim in self.dims or (self.any_from is not None and self.any_from <= dim <= self.width):
            return dim
        if len(self.dims) == 1:
            raise NotMatryoshka(
                f"{where} is not Matryoshka-trained: its vectors mean something only at their full {self.width} dims, "
                f"not at {dim}; embed with --set rotation.kind=pca, run `python -m jobs rotate` on the table, "
                "or train a Matryoshka head"
            )
        raise DimNotInLadder(f"dim {dim} is not in the ladder of {where}; allowed: {self}")

    def __str__(self) -> str:
        rungs = ", ".join(map(str, self.dims))
        return rungs if self.any_from is None else f"{rungs}, and every dim from {self.any_from}"


class Space(BaseModel):
    """What makes vectors comparable: two vectors may be compared if and only if their spaces' fingerprints are equal.

    Attributes:
        encoder: Registry name of the encoder, or of the joint model whose image and text towers share the space.
        revision: Pinned revision of the model.
        weights: sha256 over the model's files, where a local path was given.
        path: The local path that was given; where the files are, not what they are, so not part of the fingerprint.
        prompts: Text put before an input, by side (`query`, `document`).
        pooling: How token or patch vectors become one.
        steps: What is done to the pooled vector, in order, before it is stored; slicing comes after, then L2 again.
        max_length: Tokens after which a text is cut; None for images.
        dtype: Arithmetic of the encoder.
        rotation: Fingerprint of the orthonormal rotation applied after encoding, if any.
        ladder: The dims its vectors may be cut to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str
    revision: str
    weights: str = ""
    path: str | None = None
    prompts: dict[str, str] = {}
    pooling: str = "mean"
    steps: tuple[Step, ...] = ("l2",)
    max_length: int | None = None
    dtype: str = "float32"
    rotation: str | None = None
    ladder: Ladder

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when anything that changes the vectors does."""
        return hashlib.sha256(self.model_dump_json(exclude={"path"}).encode()).hexdigest()[:16]


def prefix_column(dim: int) -> str:
    """Name of the column that holds the first `dim` dims, renormalised: `prefix_column(64)` is `vector_64`."""
    return f"{VECTOR}_{dim}"


def vector_field(dim: int, name: str = VECTOR) -> pa.Field:
    """Field of `dim` half-precision floats in the layout that scans fast."""
    return pa.field(name, pa.list_(pa.float16(), dim), nullable=False, metadata=_VECTOR_METADATA)


def table_schema(space: Space, kept: pa.Schema) -> pa.Schema:
    """Schema of a vector table: `id, shard, <kept columns>, vector`, with the space in its metadata."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("shard", pa.int64(), nullable=False),
            *kept,
            vector_field(space.ladder.width),
        ],
        metadata={SPACE_KEY: space.model_dump_json().encode()},
    )


def space_of(schema: pa.Schema, where: str) -> Space:
    """Read back the space that `table_schema` wrote.

    Raises:
        TableError: The schema says nothing of a space, so the table was not made here.
    """
    written = (schema.metadata or {}).get(SPACE_KEY)
    if written is None:
        raise TableError(f"{where} does not say what space its vectors are in; only tables made by `jobs embed` do")
    return Space.model_validate_json(written)


class ShortlistSpec(BaseModel):
    """What a shortlist table holds: the K nearest of every query at every dim, as of one version of both sides.

    Attributes:
        queries: Address of the table whose vectors ask.
        queries_version: Its version.
        vectors: Address of the table that is searched.
        vectors_version: Its version.
        space: Fingerprint of the space of both.
        dims: Prefix widths.
        k: Rows for each query at each dim.
        where: SQL that the searched rows satisfy.
        exclude_self: Whether a row with the query's own id is left out.
        column: Column that was searched: `vector`, or the prefix that serves all dims.
        metric: How rows are compared.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queries: str
    queries_version: int
    vectors: str
    vectors_version: int
    space: str
    dims: tuple[int, ...]
    k: int
    where: str | None = None
    exclude_self: bool = False
    column: str = VECTOR
    metric: Literal["cosine"] = "cosine"


def shortlist_schema(spec: ShortlistSpec) -> pa.Schema:
    """Schema of a shortlist table: rows in order of query, dim and rank, rank 1 the nearest."""
    return pa.schema(
        [
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("dim", pa.int32(), nullable=False),
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
        ],
        metadata={_SHORTLIST_KEY: spec.model_dump_json().encode()},
    )


def shortlist_spec(schema: pa.Schema, where: str) -> ShortlistSpec:
    """Read back what `shortlist_schema` wrote.

    Raises:
        TableError: The table is no shortlist table.
    """
    written = (schema.metadata or {}).get(_SHORTLIST_KEY)
    if written is None:
        raise TableError(f"{where} is not a shortlist table; name another address for the lists")
    return ShortlistSpec.model_validate_json(written)


REJECTS = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False, metadata={b"lance-schema:unenforced-primary-key": b"true"}),
        pa.field("position", pa.int64(), nullable=False, metadata={b"lance-schema:unenforced-primary-key": b"true"}),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
    ]
)

SHARDS = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False, metadata={b"lance-schema:unenforced-primary-key": b"true"}),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("rejects", pa.int64(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("landed_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

RUNS = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False, metadata={b"lance-schema:unenforced-primary-key": b"true"}),
        pa.field("job", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),  # running, complete, incomplete, stopped, failed
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("seen_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("config", pa.string(), nullable=False),
        pa.field("summary", pa.string(), nullable=False),
    ]
)

__all__ = [
    "REJECTS",
    "RUNS",
    "SHARDS",
    "VECTOR",
    "Ladder",
    "Modality",
    "ShortlistSpec",
    "Space",
    "Step",
    "prefix_column",
    "shortlist_schema",
    "shortlist_spec",
    "space_of",
    "table_schema",
    "vector_field",
]
