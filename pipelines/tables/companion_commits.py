"""The Lance commits of the tables beside a vector table: companions, rotations, codebooks, shortlist tables.

Every function may be repeated, and retries while the store fails. The commits of vector tables are in `commits`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lance
import pyarrow as pa
from lance import LanceDataset

from pipelines.storage.retry import retry_transient
from pipelines.storage.s3 import lance_access
from pipelines.tables.opening import open_dataset
from schemas.config import StorageConfig


def write_once(uri: str, rows: pa.Table, storage: StorageConfig) -> bool:
    """Write a small dataset whose address names its content, unless it is there already; return whether it was not."""
    try:
        options = lance_access(uri, storage).get("storage_options")
        retry_transient(uri, lambda: lance.write_dataset(rows, uri, mode="create", storage_options=options))
    except OSError as error:
        if "already exists" not in str(error):
            raise
        return False
    return True


def overwrite(
    uri: str, make_rows: Callable[[], pa.RecordBatchReader], schema: pa.Schema, storage: StorageConfig
) -> LanceDataset:
    """Replace the whole content of a dataset, or create it.

    Args:
        uri: Address of the dataset.
        make_rows: Returns the new rows; called again for each retry.
        schema: Their schema.
        storage: Where S3 is.
    """

    def write() -> LanceDataset:
        access = lance_access(uri, storage)
        where = None if "table_id" in access else uri
        return lance.write_dataset(make_rows(), where, schema=schema, mode="overwrite", **access)

    return retry_transient(uri, write)


def upsert(uri: str, keys: Sequence[str], rows: pa.Table, storage: StorageConfig, *, remove: str | None = None) -> None:
    """Insert rows, or update those whose keys are there already; doing it twice changes nothing.

    The key columns carry Lance's `unenforced-primary-key` metadata: without it, racing upserts duplicate keys.

    Args:
        uri: Address of a companion table.
        keys: Its key columns.
        rows: Rows with all of its columns.
        storage: Where S3 is.
        remove: SQL; rows that satisfy it and are not among `rows` are removed in the same commit.
    """

    def merge() -> None:
        builder = open_dataset(uri, storage).merge_insert(list(keys))
        builder = builder.when_matched_update_all().when_not_matched_insert_all()
        if remove is not None:
            builder = builder.when_not_matched_by_source_delete(remove)
        builder.execute(rows)

    retry_transient(uri, merge)


def append_rows(uri: str, rows: pa.Table, storage: StorageConfig) -> None:
    """Append rows to a companion. After a failure they may be there twice: readers take the last of equal rows."""
    options = lance_access(uri, storage).get("storage_options")
    retry_transient(uri, lambda: lance.write_dataset(rows, uri, mode="append", storage_options=options))


def delete_rows(uri: str, where: str, storage: StorageConfig) -> None:
    """Delete the rows that satisfy SQL."""
    retry_transient(uri, lambda: open_dataset(uri, storage).delete(where))
