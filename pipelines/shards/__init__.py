"""Shards: listing them, and reading their samples in blocks.

Formats are WebDataset tar, Parquet, JSONL and Lance; stores are the local disk, S3 and whatever fsspec reaches. Nothing
here decodes an image, tokenises a text or loads a pickle: samples are strings, bytes or lists of numbers.

A sample that cannot be read becomes a Reject with its reason, and reading continues with the next one. A shard that
cannot be opened at all is ShardUnreadable.
"""

from __future__ import annotations

from pipelines.shards.listing import list_again, list_shards, tabulate_shards
from pipelines.shards.reading import read_blocks, sample_schemas, shard_schema

__all__ = ["list_again", "list_shards", "read_blocks", "sample_schemas", "shard_schema", "tabulate_shards"]
