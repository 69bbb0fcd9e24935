"""Shards in, blocks of samples out: WebDataset tar, Parquet, JSONL and Lance; local, S3 and whatever fsspec reaches.

Owns what a shard is called, where its bytes come from and how they are cut into samples. It decodes no image, tokenises
no text and unpickles nothing: a sample leaves here as a string or as bytes.

A sample that cannot be read is a Reject with its reason; the samples around it go on. A shard that cannot be opened at
all is ShardUnreadable.
"""

from __future__ import annotations

from pipelines.shards.listing import list_shards
from pipelines.shards.reading import read_blocks, shard_schema

__all__ = ["list_shards", "read_blocks", "shard_schema"]
