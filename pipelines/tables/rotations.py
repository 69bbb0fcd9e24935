"""Rotations as they are stored: a small Lance table beside the vector table, named by the rotation's fingerprint.

Owns saving and loading. The fit is in `vectors/rotation.py`, and rotating a table is in `rotate.py`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipelines.storage.addresses import sibling
from pipelines.tables.fingerprinted import rotation_name, save_fingerprinted
from pipelines.tables.opening import open_dataset
from pipelines.vectors.rotation import Rotation
from schemas.columns import check_companion, rotation_schema
from schemas.config import StorageConfig
from schemas.errors import TableError

_PROBES, _TOLERANCE = 8, 1e-2


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
    save_fingerprinted(rotation_name(rotation.fingerprint), rows, table_uri, storage)


def load_rotation(fingerprint: str, table_uri: str, storage: StorageConfig = StorageConfig()) -> Rotation:
    """Read a rotation that `save_rotation` wrote.

    Raises:
        TableNotFound: There is none with that fingerprint beside the table.
        TableError: It is of a newer format, malformed, or another one.
    """
    uri = sibling(table_uri, rotation_name(fingerprint))
    dataset = open_dataset(uri, storage)
    width = dataset.count_rows()
    check_companion(dataset.schema, rotation_schema(width), uri)
    rows = dataset.to_table(columns=["direction", "explained"])
    directions, explained = rows["direction"].combine_chunks(), rows["explained"].combine_chunks()
    if directions.null_count or directions.flatten().null_count or explained.null_count:
        raise TableError(f"{uri} has missing values; restore it from where it was copied")
    rotation = Rotation(directions.flatten().to_numpy().reshape(width, width), explained.to_numpy())
    if not _keeps_lengths(rotation):
        raise TableError(
            f"{uri} is no rotation: it changes the lengths of vectors; restore it, or rotate the table again"
        )
    if rotation.fingerprint != fingerprint:
        raise TableError(f"{uri} holds another rotation ({rotation.fingerprint}); restore it from where it was copied")
    return rotation


def _keeps_lengths(rotation: Rotation) -> bool:
    """Tell whether a matrix keeps the lengths of some vectors, which one that is not orthonormal does not."""
    x_BD = np.random.default_rng(0).standard_normal((_PROBES, len(rotation.matrix_DD))).astype(np.float32)
    with np.errstate(all="ignore"):
        ratios_B = np.linalg.norm(rotation.apply(x_BD), axis=1) / np.linalg.norm(x_BD, axis=1)
    return bool((np.abs(ratios_B - 1) < _TOLERANCE).all())
