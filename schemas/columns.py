"""Columns of vector tables and of their companions, the Space of the vectors, and the Ladder of dims it may be cut to.

Owns names and types of columns, and how a space is written into a schema. Owns no data. Shortlist tables are in
`schemas.shortlists`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from numbers import Integral
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.column_names import VECTOR
from schemas.config.bounds import MAX_DIM
from schemas.errors import DimNotInLadder, NotMatryoshka, TableError
from schemas.records import Modality
from schemas.source import SOURCE_KEY, TableSource
from schemas.stored import Fingerprint, Format, Stored

SPACE_KEY = b"lake:space"
FIELD_KEY = b"lake:field"
"""In the metadata of a kept column: the field of the shards that it is taken from."""
TABLE_KEY = b"lake:table"
"""Metadata of a table and of its companions: the table's id, by which they belong together. Format 0.1 had none."""
# Lance's default layout for wide vectors, "fullzip", scans at a fifth of the speed of this one.
_VECTOR_METADATA = {b"lance-encoding:structural-encoding": b"miniblock"}

_VECTOR_TABLE = Format("the vector table")
_COMPANION = Format("the table's companion", remedy="restore it from where the table was copied")

Step = Literal["layer_norm", "l2"]


class Ladder(BaseModel):
    """The dims a space may be cut to.

    Attributes:
        dims: The dims, ascending; the last is the full width.
        any_from: If the model was trained for every dim from some dim on: that dim.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dims: tuple[Annotated[int, Field(ge=1, le=MAX_DIM)], ...] = Field(min_length=1)
    any_from: int | None = Field(None, ge=1, le=MAX_DIM)

    @model_validator(mode="after")
    def _ascending(self) -> Ladder:
        if list(self.dims) != sorted(set(self.dims)):
            raise ValueError("dims must ascend")
        return self

    @property
    def width(self) -> int:
        """The full width of the vectors."""
        return self.dims[-1]

    def check(self, dim: object, where: str = "this space") -> int:
        """Return `dim` if vectors may be cut there.

        Raises:
            NotMatryoshka: The ladder has a single dim and `dim` is below it.
            DimNotInLadder: The ladder does not allow `dim`.
        """
        if isinstance(dim, bool) or not isinstance(dim, Integral):
            raise DimNotInLadder(f"dim={dim!r} is no whole number; allowed in {where}: {self}")
        whole = int(dim)
        if whole in self.dims or (self.any_from is not None and self.any_from <= whole <= self.width):
            return whole
        if len(self.dims) == 1:
            raise NotMatryoshka(
                f"{where} is not Matryoshka-trained: only its full {self.width} dims are meaningful, "
                f"not at {dim}; embed with --set rotation.kind=pca, run `mlake rotate` on the table, "
                "or train a Matryoshka head"
            )
        raise DimNotInLadder(f"dim {dim} is not in the ladder of {where}; allowed: {self}")

    def __str__(self) -> str:
        rungs = ", ".join(map(str, self.dims))
        return rungs if self.any_from is None else f"{rungs}, and every dim from {self.any_from}"


class Space(Stored):
    """What makes vectors comparable: two vectors may be compared if their spaces' fingerprints are equal.

    Makers of several models may state that these share one space; then `is_comparable` tells.

    Attributes:
        encoder: Registry name of the encoder, or of the joint model whose image and text towers share the space.
        revision: Pinned revision of the model.
        weights: sha256 over the model's files, where a local path was given.
        path: The local path that was given. It says where the files are, so it is not part of the fingerprint.
        class_name: `module:Class` where a class of the maker's own made the vectors; a note, which is never imported.
            `weights` covers its code.
        shares: Name of a space that several models share, by their makers' word; "" for none.
        prompts: Text put before an input, by side (`query`, `document`).
        pooling: How token or patch vectors become one.
        steps: What is done to the pooled vector, in order, before it is stored; slicing comes after, then L2 again.
        max_length: Tokens after which a text is cut; None for images.
        dtype: Arithmetic of the encoder.
        rotation: Fingerprint of the orthonormal rotation applied after encoding, if any.
        ladder: The dims its vectors may be cut to.
    """

    stored_as: ClassVar[Format] = Format("the space in the table's schema")

    encoder: str
    revision: str
    weights: str = ""
    path: str | None = None
    prompts: dict[str, str] = Field({})
    pooling: str = "mean"
    steps: tuple[Step, ...] = ("l2",)
    max_length: int | None = None
    dtype: str = "float32"
    rotation: Fingerprint | None = None
    ladder: Ladder
    class_name: str | None = Field(None, exclude_if=lambda name: name is None)
    shares: str = Field("", exclude_if=lambda name: not name)

    @property
    def encoder_name(self) -> str:
        """Name of the encoder as a config has it; `encoder` may hold an older one."""
        return ENCODERS_BY_STORED_NAME.get(self.encoder, self.encoder)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when anything that changes the vectors does.

        A setting of a later release counts only where it differs from its default, so that the fingerprint of a table
        stays the same in every release.
        """
        exclude: dict[str, bool | set[str]] = dict.fromkeys(
            {"path", "class_name", *_later_settings(self, _FIRST_SPACE)}, True
        )
        exclude["ladder"] = _later_settings(self.ladder, _FIRST_LADDER)
        return hashlib.sha256(self.model_dump_json(exclude=exclude).encode()).hexdigest()[:16]

    def is_comparable(self, other: Space) -> bool:
        """Tell whether vectors of another space may be compared with this one's, and stand in one table with them."""
        if self.fingerprint == other.fingerprint:
            return True
        facts = ("shares", "rotation", "ladder")
        return bool(self.shares) and all(getattr(self, fact) == getattr(other, fact) for fact in facts)


ENCODERS_BY_STORED_NAME = {"brought": "precomputed"}
"""Spaces hold this name of an encoder since the first release. It is part of their fingerprints, so it stays."""
# The settings of the first release, which its fingerprints cover whatever their value. Never add to these.
_FIRST_LADDER = frozenset({"dims", "any_from"})
_FIRST_SPACE = frozenset(
    {
        "encoder",
        "revision",
        "weights",
        "path",
        "prompts",
        "pooling",
        "steps",
        "max_length",
        "dtype",
        "rotation",
        "ladder",
    }
)


def _later_settings(record: BaseModel, first: frozenset[str]) -> set[str]:
    """Name the settings of later releases that stand at their default."""
    fields = type(record).model_fields.items()
    return {
        name
        for name, field in fields
        if name not in first
        and getattr(record, name) == field.get_default(call_default_factory=True, validated_data={})
    }


def prefix_column(dim: int) -> str:
    """Return the name of the column of the first `dim` dims, renormalised: `prefix_column(64)` is `vector_64`."""
    return f"{VECTOR}_{dim}"


def prefix_dims(names: Iterable[str]) -> tuple[int, ...]:
    """Return the dims that have a prefix column among these columns, ascending."""
    after = (name.removeprefix(f"{VECTOR}_") for name in names if name.startswith(f"{VECTOR}_"))
    return tuple(sorted(int(dim) for dim in after if dim.isdecimal()))


INPUT_HASH = f"{VECTOR}_input_hash"
"""Column with the hash of what each vector was made from; null in rows that were written without."""


def input_hash_field() -> pa.Field:
    """Return the field of the hashes: 16 bytes each."""
    return pa.field(INPUT_HASH, pa.binary(16))


def vector_field(dim: int, name: str = VECTOR) -> pa.Field:
    """Return the field of `dim` half-precision floats, in the layout that scans fast."""
    return pa.field(name, pa.list_(pa.float16(), dim), nullable=False, metadata=_VECTOR_METADATA)


def table_schema(space: Space, kept: pa.Schema, source: TableSource | None = None) -> pa.Schema:
    """Return the schema of a vector table: `id, shard, <kept columns>, vector`, with the space in its metadata."""
    id_field, shard_field, vector = _own_fields(space)
    metadata = {SPACE_KEY: space.to_json().encode()}
    if source is not None:
        metadata[SOURCE_KEY] = source.to_json().encode()
    return pa.schema([id_field, shard_field, *kept, vector], metadata=metadata)


def space_of(schema: pa.Schema, where: str) -> Space:
    """Read the space of a vector table from its schema.

    Raises:
        TableError: The table was not made by this project, is of a newer format, or is malformed.
    """
    written = (schema.metadata or {}).get(SPACE_KEY)
    if written is None:
        raise TableError(f"{where} does not say what space its vectors are in; only tables made by `mlake embed` do")
    space = Space.from_json(written, where)
    _VECTOR_TABLE.check_columns(schema, pa.schema(_own_fields(space)), where)
    return space


def _own_fields(space: Space) -> tuple[pa.Field, pa.Field, pa.Field]:
    return (
        pa.field("id", pa.string(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        vector_field(space.ladder.width),
    )


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

Reach = Literal["content", "place", "file", "table"]
"""How far the name of an erased sample reaches: that content of its file, since a later one has it not, or has another
sample of that name; the same, and whether other contents have it cannot be known, since it is named by its place; every
content of its file; or every file of the table, since no other sample has that name."""

ERASED = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),  # of the shard; empty where it is not known
        pa.field("sample", pa.int64(), nullable=False),  # a hash of the sample's name, since ids may be private
        pa.field("reach", pa.string(), nullable=False),  # `Reach`
        pa.field("named_by", pa.string(), nullable=False),  # `TableSource.named_by`
        pa.field("run", pa.string(), nullable=False),
    ]
)

COMPANIONS = {"shards": SHARDS, "rejects": REJECTS, "runs": RUNS, "erased": ERASED}
"""Columns of a table's companions `<table>.<name>.lance`, by name. `erased` is made with the first erasure."""

CODEBOOK = pa.schema([pa.field("part", pa.string()), pa.field("numbers", pa.large_list(pa.float32()))])
"""Columns of a funnel's codebook: the trained numbers of each stage but the last, such as `0.centroids.16x16x2`."""

FIRST_CODEBOOK = pa.schema([pa.field("stage", pa.large_binary())])
"""Columns of a codebook of the first release: FAISS's own bytes, which are not read any more."""


def rotation_schema(width: int) -> pa.Schema:
    """Return the schema of a rotation: one row per output dim."""
    direction = pa.list_(pa.float32(), width)
    return pa.schema([pa.field("direction", direction), pa.field("explained", pa.float32())])


def check_companion(found: pa.Schema, columns: pa.Schema, where: str) -> None:
    """Refuse a companion of a table that this release cannot read.

    Args:
        found: Its schema.
        columns: The columns that it must have.
        where: Its address.

    Raises:
        TableError: It is of a newer format, lacks a column, or has one of another type.
    """
    _COMPANION.check_columns(found, columns, where)


__all__ = [
    "CODEBOOK",
    "COMPANIONS",
    "ERASED",
    "FIELD_KEY",
    "FIRST_CODEBOOK",
    "INPUT_HASH",
    "REJECTS",
    "RUNS",
    "SHARDS",
    "TABLE_KEY",
    "VECTOR",
    "Ladder",
    "Modality",
    "Reach",
    "Space",
    "Step",
    "check_companion",
    "input_hash_field",
    "prefix_column",
    "rotation_schema",
    "space_of",
    "table_schema",
    "vector_field",
]
