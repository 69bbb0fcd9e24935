"""Every format is in the table, and a shard's blocks have the types that were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shards import read_blocks, shard_schema
from pipelines.shards.reading import FORMATS
from schemas.config import InputConfig
from schemas.records import ShardFormat
from tests.support.shard_files import shard_at


def test_every_format_can_be_read() -> None:
    assert set(FORMATS) == set(get_args(ShardFormat))


def test_kept_columns_are_cast_to_the_types_of_the_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "n": pa.array([1, 2], pa.int32())}), tmp_path / "a.parquet")
    shard, config = shard_at(tmp_path / "a.parquet"), InputConfig(text="text", keep=("n",))
    assert shard_schema(shard, config) == pa.schema([("n", pa.int32())])
    (block,) = read_blocks(shard, config, kept_schema=pa.schema([("n", pa.int64())]))
    assert block.rows.schema.field("n").type == pa.int64()
    assert block.rows["n"].to_pylist() == [1, 2]
