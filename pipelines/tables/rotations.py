"""Rotations as they are stored: a small Lance table beside the vector table, named by the rotation's fingerprint.

Owns saving and loading. The fit is in `vectors/rotation.py`, and rotating a table is in `rotate.py`.
"""

from __future__ import annotations

import pyarrow as pa

from pipelines.storage.addresses import sibling
from pipelines.tables.commits import open_dataset, write_once
from pipelines.vectors.rotation import Rotation
from schemas.columns import check_companion, rotation_schema
from schemas.config import StorageConfig
from schemas.errors import TableError


def save_rotation(rotation: Rotation, table_uri: str, storage: StorageConfig = StorageConfig()) -> None:
    """Write a rotation beside its table, under its fingerprint; writing the same one again changes nothing."""
    width = len(rotation.matrix_DD)
    rows = pa.table(
        {
            "direction": pa.FixedSizeListArray.from_arrays(rotation.matrix_DD.ravel(), width),
            "explained": rotation.explained_D,
        },
        schema=rotation_schema(width),
    )
    write_once(_address(rotation.fingerprint, table_uri), rows, storage)


def load_rotation(fingerprint: str, table_uri: str, storage: StorageConfig = StorageConfig()) -> Rotation:
    """Read a rotation that `save_rotation` wrote.

    Raises:
        TableNotFound: There is none with that fingerprint beside the table.
        TableError: It is of a newer format, malformed, or another one.
    """
    uri = _address(fingerprint, table_uri)
    rows = open_dataset(uri, storage).to_table()
    check_companion(rows.schema, rotation_schema(rows.num_rows), uri)
    flat = rows["direction"].combine_chunks().flatten().to_numpy()
    rotation = Rotation(flat.reshape(rows.num_rows, rows.num_rows), rows["explained"].to_numpy())
    if rotation.fingerprint != fingerprint:
        raise TableError(f"{uri} holds another rotation ({rotation.fingerprint}); restore it from where it was copied")
    return rotation


def _address(fingerprint: str, table_uri: str) -> str:
    return sibling(table_uri, f"rotation-{fingerprint}")
