"""Parquet files: only the needed columns, a few rows at a time, independent of the size of row groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shards.column_choice import ColumnChoice, choose_columns, to_raw_block
from pipelines.shards.contents import HEAD_BYTES, foreign
from pipelines.shards.decompression import Damage
from pipelines.shards.parquet_pages import dictionary_of, largest_page, largest_value
from pipelines.shards.raw_blocks import BLOCK_BYTES, BLOCK_ROWS, RawBlock
from pipelines.shards.stores import open_shard
from schemas.config import InputConfig, LimitsConfig, StorageConfig
from schemas.errors import ShardUnreadable
from schemas.records import Reject, Shard

# Pages are read through a buffer of this size, so that a column chunk is never held whole.
_BUFFER_BYTES = 1 << 20
# Behind the footer of a file whose columns alone are encrypted: a nonce and a tag.
_SIGNATURE_BYTES = 28
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
                rows = range(start, start + parquet.metadata.row_group(group).num_rows)
                try:
                    batch_rows = _batch_rows(parquet, file, group, choice, limits)
                except Damage as damage:
                    yield from _lost(rows, damage, choice, shard)
                else:
                    yield from _row_group(parquet, group, choice, rows, batch_rows, shard)
                start = rows.stop


def _open(file: BinaryIO, shard: Shard) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(
            pa.PythonFile(file, mode="r"),
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    except _DAMAGED as error:
        file.seek(0)
        if said := foreign(file.read(HEAD_BYTES), "a Parquet file"):
            raise ShardUnreadable(f"{shard.uri} {said}") from None
        what = "is encrypted; decrypt it" if "encrypted" in str(error) else "is not a whole Parquet file"
        raise ShardUnreadable(f"{shard.uri} {what}: {error}") from None
    # Arrow aborts the process when it meets an encrypted column, so the footer's signature is looked for before.
    file.seek(shard.size - 8)
    if int.from_bytes(file.read(4), "little") == parquet.metadata.serialized_size + _SIGNATURE_BYTES:
        raise ShardUnreadable(f"{shard.uri} has encrypted columns; decrypt it")
    return parquet


def _row_group(
    parquet: pq.ParquetFile, group: int, choice: ColumnChoice, rows: range, batch_rows: int, shard: Shard
) -> Iterator[RawBlock]:
    at = rows.start
    try:
        for batch in parquet.iter_batches(batch_rows, [group], choice.columns, use_threads=False):
            yield to_raw_block(batch, choice, at)
            at += len(batch)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ShardUnreadable(f"{shard.uri}: reading fails: {error}") from error
        damage = Damage("corrupt_row_group", f"row group {group} is damaged from row {at} on: {error}")
        yield from _lost(range(at, rows.stop), damage, choice, shard)


def _lost(rows: range, damage: Damage, choice: ColumnChoice, shard: Shard) -> Iterator[RawBlock]:
    for first in range(rows.start, rows.stop, BLOCK_ROWS):
        positions = range(first, min(first + BLOCK_ROWS, rows.stop))
        yield RawBlock(
            pa.array(np.empty(0, np.int64)),
            None,
            pa.nulls(0, pa.binary()),
            {f.name: pa.nulls(0, f.type) for f in choice.kept},
            [Reject(shard.id, position, "", damage.reason, str(damage)) for position in positions],
        )


def _batch_rows(parquet: pq.ParquetFile, file: BinaryIO, group: int, choice: ColumnChoice, limits: LimitsConfig) -> int:
    """Return how many rows of a row group are decoded at once, so that they fit `limits.buffer_bytes`.

    Raises:
        Damage: Its dictionary alone does not fit, or one page.
    """
    meta = parquet.metadata.row_group(group)
    wanted = tuple(choice.columns)
    chunks = [meta.column(i) for i in range(meta.num_columns)]
    chunks = [chunk for chunk in chunks if _belongs(chunk.path_in_schema, wanted)]
    row_bytes: int = max(1, sum(chunk.total_uncompressed_size for chunk in chunks) // max(1, int(meta.num_rows)))
    most_row_bytes = 1
    for chunk in chunks:
        page = dictionary_of(file, chunk)
        if page is not None and page.nbytes > limits.buffer_bytes:
            raise _too_large("the dictionary", page.nbytes, chunk.path_in_schema, group, limits)
        if (largest := largest_page(file, chunk, limits.buffer_bytes)) > limits.buffer_bytes:
            raise _too_large("a page", largest, chunk.path_in_schema, group, limits)
        if page is None:
            continue
        is_small = page.nbytes * BLOCK_ROWS * len(chunks) <= limits.buffer_bytes
        most_row_bytes += page.nbytes if is_small else largest_value(file, page, chunk)
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes, limits.buffer_bytes // most_row_bytes))


def _too_large(what: str, nbytes: int, column: str, group: int, limits: LimitsConfig) -> Damage:
    return Damage(
        "too_large",
        f"{what} of column {column} in row group {group} is {nbytes} bytes; "
        f"limits.buffer_bytes is {limits.buffer_bytes}",
    )


def _belongs(path: str, columns: tuple[str, ...]) -> bool:
    return any(path == column or path.startswith(column + ".") for column in columns)
