"""Create a table and its companions."""

from __future__ import annotations

import uuid

import pyarrow as pa

from pipelines.storage.addresses import absolute
from pipelines.tables.commits import create_dataset
from pipelines.tables.companions import ensure_companion
from pipelines.tables.table import VectorTable
from schemas.columns import TABLE_KEY, Space, table_schema
from schemas.config import StorageConfig
from schemas.source import TableSource


def create_table(
    uri: str,
    space: Space,
    kept: pa.Schema,
    storage: StorageConfig = StorageConfig(),
    *,
    source: TableSource | None = None,
) -> VectorTable:
    """Create an empty table with a new id, then its companions. Of several racing creators exactly one succeeds.

    Args:
        uri: Address of the table.
        space: The space of all its vectors.
        kept: Fields of the columns that are kept from the samples.
        storage: Where S3 is.
        source: What the rows are made from, where it is known.

    Raises:
        TableExists: There is something at that address already.
    """
    uri, schema = absolute(uri), table_schema(space, kept, source)
    schema = schema.with_metadata({**schema.metadata, TABLE_KEY: uuid.uuid4().hex.encode()})
    table = VectorTable(uri, create_dataset(uri, schema, storage), storage)
    for suffix in ("shards", "rejects", "runs"):
        ensure_companion(table, suffix)
    return table
