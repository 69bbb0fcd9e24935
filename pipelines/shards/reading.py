"""Reading a shard of any format: its samples in blocks, and the types of its kept columns.

Owns the `Format` protocol and the table of formats. How a format is laid out is in one module each; which samples are
good is decided in `block_checks`, for every format alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pyarrow as pa

from pipelines.shards.block_checks import BlockChecker
from pipelines.shards.jsonl import JsonlFormat
from pipelines.shards.kept_types import TYPED_FORMATS
from pipelines.shards.lance_fragments import LanceFormat
from pipelines.shards.parquet import ParquetFormat
from pipelines.shards.raw_blocks import RawBlock
from pipelines.shards.templates import as_read, without_template_fields
from pipelines.shards.webdataset import WebDatasetFormat
from schemas.config import InputConfig, LimitsConfig, StorageConfig
from schemas.errors import InputError
from schemas.records import SampleBlock, Shard, ShardFormat

_MAX_TYPED = 64
_MAX_UNTYPED = 8
_LOOKING_AT_ONCE = 8


class Format(Protocol):
    """One layout of shards."""

    def kept_schema(self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig) -> pa.Schema:
        """Return the fields of the kept columns, with the types that this shard gives them.

        Raises:
            FieldNotFound: A field that the config names is not there, or has a type that cannot be embedded.
            ShardNotFound: The shard is gone.
            ShardUnreadable: The shard cannot be opened, or has changed since it was listed.
        """
        ...

    def read(
        self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig
    ) -> Iterator[RawBlock]:
        """Yield the samples of a shard in its order, unchecked, a bounded number at a time.

        Raises:
            FieldNotFound: A field that the config names is not there, or has a type that cannot be embedded.
            ShardNotFound: The shard is gone.
            ShardUnreadable: The shard cannot be opened, has changed since it was listed, or reading it fails.
        """
        ...


FORMATS: dict[ShardFormat, Format] = {
    "webdataset": WebDatasetFormat(),
    "parquet": ParquetFormat(),
    "jsonl": JsonlFormat(),
    "lance": LanceFormat(),
}


def shard_schema(
    shard: Shard,
    config: InputConfig,
    storage: StorageConfig = StorageConfig(),
    limits: LimitsConfig = LimitsConfig(),
) -> pa.Schema:
    """Return the fields of the kept columns, with the types that this shard gives them.

    Parquet and Lance have types of their own. In JSONL and tars a field is a string; in tars it is binary where its
    extension is that of an image or of other binary data.

    Raises:
        FieldNotFound: A field that the config names is not there, or has a type that cannot be embedded.
        ShardNotFound: The shard is gone.
        ShardUnreadable: The shard cannot be opened, or has changed since it was listed.
    """
    kept = FORMATS[shard.format].kept_schema(shard, as_read(config), limits, storage)
    return without_template_fields(kept, shard.uri)


def sample_schemas(
    shards: Sequence[Shard],
    config: InputConfig,
    storage: StorageConfig = StorageConfig(),
    limits: LimitsConfig = LimitsConfig(),
) -> list[tuple[Shard, pa.Schema]]:
    """Return the kept columns of some of the shards, evenly spread over them.

    Of Parquet and Lance, whose types may differ from shard to shard, at most 64 shards are looked at. JSON lines and
    tars give one type everywhere, so the first of eight that has all fields is enough. Shards that cannot be read, or
    lack a field, are passed over: they fail when they are embedded.

    Raises:
        InputError: None of these shards has all fields; the error is that of the first.
    """
    by_format = {format: [shard for shard in shards if shard.format == format] for format in FORMATS}
    looked_at = [
        _spread(some, _MAX_TYPED if format in TYPED_FORMATS else _MAX_UNTYPED)
        for format, some in by_format.items()
        if some
    ]
    found: list[tuple[Shard, pa.Schema]] = []
    errors: list[InputError] = []

    def look(shard: Shard) -> pa.Schema | InputError:
        try:
            return shard_schema(shard, config, storage, limits)
        except InputError as error:
            return error

    with ThreadPoolExecutor(_LOOKING_AT_ONCE, "schema") as threads:
        for some in looked_at:
            is_typed = some[0].format in TYPED_FORMATS
            for shard, schema in zip(some, threads.map(look, some) if is_typed else map(look, some), strict=True):
                if isinstance(schema, InputError):
                    errors.append(schema)
                    continue
                found.append((shard, schema))
                if not is_typed:
                    break
    if not found and errors:
        raise errors[0]
    return found


def _spread(shards: Sequence[Shard], most: int) -> list[Shard]:
    """Return at most so many shards, the first and the last among them, in their order."""
    if len(shards) <= most:
        return list(shards)
    return [shards[place * (len(shards) - 1) // (most - 1)] for place in range(most)]


def read_blocks(
    shard: Shard,
    config: InputConfig,
    limits: LimitsConfig = LimitsConfig(),
    storage: StorageConfig = StorageConfig(),
    kept_schema: pa.Schema | None = None,
) -> Iterator[SampleBlock]:
    """Read a shard in blocks: a bounded number of rows and bytes at a time.

    Args:
        shard: The shard.
        config: The fields to read.
        limits: `max_sample_bytes` is enforced here.
        storage: Settings of S3.
        kept_schema: Kept columns with the types that they are converted to; by default those of `shard_schema`.

    Yields:
        Blocks of at most 1024 rows and about 8 MiB of input, in the shard's order, all of one schema.

    Raises:
        FieldNotFound: A field that the config names is not there, has a type that cannot be embedded, or one of which
            no value fits `kept_schema`.
        ShardNotFound: The shard is gone.
        ShardUnreadable: The shard cannot be opened, has changed since it was listed, or reading it fails for a cause
            that may pass. Damaged data becomes rejects instead.
    """
    kept = shard_schema(shard, config, storage, limits) if kept_schema is None else kept_schema
    checker = BlockChecker(shard, config, limits, kept)
    for raw in FORMATS[shard.format].read(shard, as_read(config), limits, storage):
        yield from checker.check(raw)
