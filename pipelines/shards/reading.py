"""From a shard to its Blocks, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipelines.shards import jsonl, lance_table, parquet, tar
from pipelines.shards.blocks import BlockMaker, Stretch
from schemas.config import InputConfig, LimitsConfig, StorageConfig
from schemas.records import SampleBlock, Shard


def shard_schema(
    shard: Shard,
    config: InputConfig,
    storage: StorageConfig = StorageConfig(),
    limits: LimitsConfig = LimitsConfig(),
) -> pa.Schema:
    """Return the fields of the kept columns, as this shard would give them.

    Parquet and Lance have their own types; in JSONL and tars a field is a string, or binary where its extension is that
    of an image or the like.

    Raises:
        FieldNotFound: A field that the config names is not there, or cannot serve.
        ShardNotFound: The shard is gone.
        ShardUnreadable: It cannot be opened, or is no longer the one that was listed.
    """
    match shard.format:
        case "parquet":
            return parquet.kept_schema(shard, config, storage)
        case "lance":
            return lance_table.kept_schema(shard, config, storage)
        case "jsonl":
            return jsonl.kept_schema(shard, config, limits, storage)
        case "webdataset":
            return tar.kept_schema(shard, config, limits, storage)


def read_blocks(
    shard: Shard,
    config: InputConfig,
    limits: LimitsConfig = LimitsConfig(),
    storage: StorageConfig = StorageConfig(),
    kept_schema: pa.Schema | None = None,
) -> Iterator[SampleBlock]:
    """Read a shard, a bounded number of rows and bytes at a time.

    Args:
        shard: The shard.
        config: Which fields are used.
        limits: `max_sample_bytes` is enforced here.
        storage: Where S3 is.
        kept_schema: Types that the kept columns leave with; by default those of `shard_schema`.

    Yields:
        Blocks of at most 1024 rows and about 8 MiB of input, in the shard's order, all of one schema.

    Raises:
        FieldNotFound: A field that the config names is not there, or cannot serve, or never casts to `kept_schema`.
        ShardNotFound: The shard is gone.
        ShardUnreadable: It cannot be opened, or is no longer the one that was listed, or reading failed midway for a
            cause that may pass. Damaged data is no such cause: it becomes rejects.
    """
    kept = shard_schema(shard, config, storage, limits) if kept_schema is None else kept_schema
    maker = BlockMaker(shard, config, limits, kept)
    for stretch in _stretches(shard, config, limits, storage):
        yield from maker.make(stretch)


def _stretches(shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig) -> Iterator[Stretch]:
    match shard.format:
        case "parquet":
            return parquet.stretches(shard, config, storage)
        case "lance":
            return lance_table.stretches(shard, config, storage)
        case "jsonl":
            return jsonl.stretches(shard, config, limits, storage)
        case "webdataset":
            return tar.stretches(shard, config, limits, storage)
