"""The companions of a table: `<table>.shards.lance`, `….rejects.lance`, `….runs.lance` and `….erased.lance`.

Owns which companion belongs to a table, and makes one anew that is lost or belongs to another table. They belong
together by the table's id, which stands in the schema of each; tables of the first release have none, and neither have
their companions. Owns no meaning of the rows (`records.py`, `runs.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
from lance import LanceDataset
from lance.commit import CommitConflictError

from pipelines.storage.addresses import sibling
from pipelines.tables.commits import create_dataset, remove_all_rows, set_schema_metadata
from pipelines.tables.opening import open_dataset
from schemas.columns import COMPANIONS, TABLE_KEY, check_companion
from schemas.config import StorageConfig, check_choice
from schemas.errors import TableExists, TableNotFound


class Owner(Protocol):
    """The table that companions belong to, such as a `VectorTable`.

    Attributes:
        uri: Its absolute address.
        storage: Where S3 is.
        table_id: Its id; empty for a table of the first release.
    """

    uri: str
    storage: StorageConfig

    @property
    def table_id(self) -> str: ...  # noqa: D102 - see the class


def id_of(schema: pa.Schema) -> str:
    """Return the id of the table that a table or companion is, or belongs to; empty if it has none."""
    written: bytes = (schema.metadata or {}).get(TABLE_KEY, b"")
    return written.decode(errors="replace")


def open_companion(table: Owner, suffix: str) -> LanceDataset:
    """Open a companion, `<table>.<suffix>.lance`.

    Raises:
        TableNotFound: It is not beside the table, or belongs to another one, such as a deleted table of that name.
        TableError: It is of a newer format, or malformed.
        ConfigError: No companion has this suffix.
    """
    check_choice(tuple(COMPANIONS), suffix=suffix)
    uri = sibling(table.uri, suffix)
    dataset = open_dataset(uri, table.storage)
    if id_of(dataset.schema) != table.table_id:
        raise TableNotFound(f"{uri} belongs to another table; the next `mlake embed CONFIG` makes a new one")
    check_companion(dataset.schema, COMPANIONS[suffix], uri)
    return dataset


def read_companion(table: Owner, suffix: str, names: Sequence[str] | None = None) -> pa.Table:
    """Read all rows of a companion in the order in which they were written; none if it is lost or another table's.

    Args:
        table: The table.
        suffix: Which companion.
        names: Columns to read; None reads all.
    """
    columns = COMPANIONS[suffix]
    wanted = columns.names if names is None else list(names)
    try:
        return open_companion(table, suffix).to_table(columns=wanted)
    except TableNotFound:
        return columns.empty_table().select(wanted)


def ensure_companion(table: Owner, suffix: str) -> tuple[LanceDataset, bool]:
    """Open a companion; make it anew, empty, where it is lost or belongs to another table.

    Several runs may do so at once: none removes rows that another has appended.

    Returns:
        The companion, and whether it was made anew.
    """
    is_new = False
    while True:
        try:
            return open_companion(table, suffix), is_new
        except TableNotFound:
            _make(table, suffix)
            is_new = True


def _make(table: Owner, suffix: str) -> None:
    uri, schema = sibling(table.uri, suffix), COMPANIONS[suffix]
    own = {TABLE_KEY: table.table_id.encode()} if table.table_id else None
    with contextlib.suppress(TableExists):
        create_dataset(uri, schema.with_metadata(own), table.storage)
        return
    foreign = open_dataset(uri, table.storage)
    if id_of(foreign.schema) != table.table_id:
        with contextlib.suppress(CommitConflictError):  # another run does the same
            remove_all_rows(foreign, table.storage)
            set_schema_metadata(uri, TABLE_KEY.decode(), table.table_id, table.storage)
