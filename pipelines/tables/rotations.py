"""Rotations as they are stored: a small Lance table beside the vector table, named by its fingerprint."""

from __future__ import annotations

import lance
import pyarrow as pa

from pipelines.storage.addresses import sibling
from pipelines.storage.retry import retry_transient
from pipelines.storage.s3 import lance_options
from pipelines.vectors.rotation import Rotation
from schemas.config import StorageConfig


def save_rotation(rotation: Rotation, table_uri: str, storage: StorageConfig = StorageConfig()) -> None:
    """Write a rotation beside its table, under its fingerprint; writing the same one again changes nothing."""
    width = len(rotation.matrix_DD)
    rows = pa.table(
        {
            "direction": pa.FixedSizeListArray.from_arrays(rotation.matrix_DD.ravel(), width),
            "explained": rotation.explained_D,
        }
    )
    uri = sibling(table_uri, f"rotation-{rotation.fingerprint}")
    retry_transient(
        uri, lambda: lance.write_dataset(rows, uri, mode="overwrite", storage_options=lance_options(storage))
    )


def load_rotation(fingerprint: str, table_uri: str, storage: StorageConfig = StorageConfig()) -> Rotation:
    """Read back what `save_rotation` wrote."""
    uri = sibling(table_uri, f"rotation-{fingerprint}")
    rows = lance.dataset(uri, storage_options=lance_options(storage)).to_table()
    flat = rows["direction"].combine_chunks().flatten().to_numpy()
    return Rotation(flat.reshape(rows.num_rows, rows.num_rows), rows["explained"].to_numpy())
