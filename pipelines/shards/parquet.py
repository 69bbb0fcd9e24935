"""Parquet files: only the needed columns, a few rows at a time, independent of the size of row groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shards.column_choice import ColumnChoice, choose_columns, to_raw_block
from pipelines.shards.raw_blocks import BLOCK_BYTES, BLOCK_ROWS, RawBlock
from pipelines.shards.stores import open_shard
from schemas.config import InputConfig, LimitsConfig, StorageConfig
from schemas.errors import ShardUnreadable
from schemas.records import Reject, Shard

# Pages are read through a buffer of this size, so that a column chunk is never held whole.
_BUFFER_BYTES = 1 << 20
# Arrow's errors on damaged pages: bad values, failed decompression, sizes that cannot be allocated.
_DAMAGED = (pa.ArrowException, OSError, ValueError)


class ParquetFormat:
    """Parquet files."""

    def kept_schema(self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig) -> pa.Schema:
        """Return the kept fields, with the file's own types."""
        with open_shard(shard, storage, is_forward=False) as file:
            return choose_columns(_open(file, shard).schema_arrow, config, shard.uri).kept

    def read(
        self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig
    ) -> Iterator[RawBlock]:
        """Read a file in order; rows that cannot be read from a damaged row group become rejects, one each."""
        with open_shard(shard, storage, is_forward=False) as file:
            parquet = _open(file, shard)
            choice = choose_columns(parquet.schema_arrow, config, shard.uri)
            start = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                yield from _row_group(parquet, group, choice, start, shard)
                start += rows


def _open(file: BinaryIO, shard: Shard) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(
            pa.PythonFile(file, mode="r"),
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    except _DAMAGED as error:
        raise ShardUnreadable(f"{shard.uri} is not a whole Parquet file: {error}") from None


def _row_group(
    parquet: pq.ParquetFile, group: int, choice: ColumnChoice, start: int, shard: Shard
) -> Iterator[RawBlock]:
    rows = parquet.metadata.row_group(group).num_rows
    at = start
    try:
        for batch in parquet.iter_batches(
            _batch_rows(parquet, group, choice), [group], choice.columns, use_threads=False
        ):
            yield to_raw_block(batch, choice, at)
            at += len(batch)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ShardUnreadable(f"{shard.uri}: reading fails: {error}") from error
        message = f"row group {group} is damaged from row {at} on: {error}"
        for first in range(at, start + rows, BLOCK_ROWS):
            yield _lost(range(first, min(first + BLOCK_ROWS, start + rows)), message, choice, shard)


def _lost(positions: range, message: str, choice: ColumnChoice, shard: Shard) -> RawBlock:
    rejects = [Reject(shard.id, position, "", "corrupt_row_group", message) for position in positions]
    return RawBlock(
        pa.array(np.empty(0, np.int64)),
        None,
        pa.nulls(0, pa.binary()),
        {f.name: pa.nulls(0, f.type) for f in choice.kept},
        rejects,
    )


def _batch_rows(parquet: pq.ParquetFile, group: int, choice: ColumnChoice) -> int:
    meta = parquet.metadata.row_group(group)
    chunks = (meta.column(i) for i in range(meta.num_columns))
    wanted = tuple(choice.columns)
    total: int = sum(chunk.total_uncompressed_size for chunk in chunks if _belongs(chunk.path_in_schema, wanted))
    row_bytes = max(1, total // max(1, int(meta.num_rows)))
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))


def _belongs(path: str, columns: tuple[str, ...]) -> bool:
    return any(path == column or path.startswith(column + ".") for column in columns)
