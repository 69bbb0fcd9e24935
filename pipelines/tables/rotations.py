"""Rotations of tables: stored beside their table by fingerprint, and applied to the vectors of an existing table.

A stored rotation is a small Lance table. Rotating a table encodes nothing again: the column `vector` gets new files, no
other column is read or written, and one compare-and-swap commit swaps the files and changes the space. So a reader sees
the table before or after, never between; older versions stay as they were. Owns neither the fit (`vectors/rotation.py`)
nor how fragments are spread over machines.

Shapes: B rows, D full width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, LanceFragment
from lance.schema import LanceSchema

from pipelines.storage.addresses import sibling
from pipelines.tables.commits import commit_rewritten, drop_indexes, open_dataset, write_once
from pipelines.vectors.arrays import Halves, to_arrow, to_numpy
from pipelines.vectors.rotation import Moments, Rotation
from schemas.columns import SPACE_KEY, VECTOR, Space, check_companion, rotation_schema, vector_field
from schemas.config import StorageConfig
from schemas.errors import NotMatryoshka, TableError

if TYPE_CHECKING:
    from pipelines.tables.table import VectorTable

_ROTATED = f"{VECTOR}_rotated"
_REPLACED = -2  # Lance's mark for a column of a data file that another file replaces


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


def check_rotatable(table: VectorTable) -> None:
    """Refuse a table whose prefixes a rotation would not improve.

    Raises:
        TableError: It is rotated already, its encoder is Matryoshka-trained, or it is empty.
    """
    space = table.space
    if space.rotation is not None:
        raise TableError(f"{table.uri} is rotated already ({space.rotation}); its ladder is {space.ladder}")
    if len(space.ladder.dims) > 1:
        raise TableError(
            f"{table.uri} holds vectors of {space.encoder}, which is Matryoshka-trained for {space.ladder}: "
            "a rotation would harm its prefixes; use them as they are"
        )
    if not table.dataset.count_rows():
        raise TableError(f"{table.uri} has no rows to fit a rotation on; run `mlake embed` first")


def moments_of(table: VectorTable, fragment_ids: Sequence[int]) -> Moments:
    """Sum the moments of the vectors in some fragments."""
    width = table.space.ladder.width

    def blocks() -> Iterator[Halves]:
        yield np.empty((0, width), np.float16)
        for fragment_id in fragment_ids:
            for batch in _fragment(table, fragment_id).to_batches(columns=[VECTOR]):
                yield to_numpy(batch.column(0))

    return Moments.of(blocks())


def rotate_fragments(table: VectorTable, fragment_ids: Sequence[int], fingerprint: str) -> tuple[str, ...]:
    """Rotate the vectors of some fragments into new files that no reader sees before `commit_rotation`.

    Args:
        table: Open at the version that `commit_rotation` will replace.
        fragment_ids: Fragments of that version.
        fingerprint: A rotation saved beside the table.

    Returns:
        JSON of the fragments with their new files.
    """
    rotation = load_rotation(fingerprint, table.uri, table.storage)
    field = vector_field(table.space.ladder.width, _ROTATED).with_nullable(True)

    def rotated(batch: pa.RecordBatch) -> pa.RecordBatch:
        x_BD = to_numpy(batch.column(VECTOR)).astype(np.float32)
        return pa.RecordBatch.from_arrays([to_arrow(rotation.apply(x_BD))], schema=pa.schema([field]))

    written = []
    for fragment_id in fragment_ids:
        metadata, _ = _fragment(table, fragment_id).merge_columns(rotated, columns=[VECTOR])
        written.append(json.dumps(metadata.to_json()))
    return tuple(written)


def commit_rotation(table: VectorTable, rotation: Rotation, fragments: Sequence[str]) -> VectorTable:
    """Make the rotated vectors those of the table, together with the new space, in one commit.

    Indexes on `vector` are dropped, because they were built over the vectors before the rotation.

    Args:
        table: Open at the version that was rotated.
        rotation: The rotation, saved already.
        fragments: Results of `rotate_fragments` for every fragment of that version.

    Returns:
        The rotated table.

    Raises:
        TableError: Rows were added, removed or moved since; nothing is changed.
    """
    dataset = table.dataset
    vector_id = cast(Any, dataset.lance_schema.field(VECTOR)).id()
    rotated = [_replace_vector_file(text, vector_id) for text in fragments]
    schema = _with_space(dataset.lance_schema, rotated_space(table.space, rotation))
    drop_indexes(table.uri, VECTOR, table.storage)
    try:
        commit_rewritten(dataset, rotated, schema, table.storage)
    except CommitConflictError:
        raise TableError(
            f"{table.uri} changed while it was being rotated, so nothing was; run `mlake rotate` again "
            "when no other job writes to it"
        ) from None
    drop_indexes(table.uri, VECTOR, table.storage)
    return table.refresh()


def rotated_space(space: Space, rotation: Rotation) -> Space:
    """Return the space of a table's vectors after a rotation.

    Raises:
        NotMatryoshka: The rotation is of another width.
    """
    if rotation.ladder.width != space.ladder.width:
        raise NotMatryoshka(f"a rotation of {rotation.ladder.width} dims does not fit vectors of {space.ladder.width}")
    return space.model_copy(update={"rotation": rotation.fingerprint, "ladder": rotation.ladder})


def _address(fingerprint: str, table_uri: str) -> str:
    return sibling(table_uri, f"rotation-{fingerprint}")


def _fragment(table: VectorTable, fragment_id: int) -> LanceFragment:
    return cast(LanceFragment, table.dataset.get_fragment(fragment_id))


def _replace_vector_file(fragment: str, vector_id: int) -> FragmentMetadata:
    """Make a fragment's newest file the one of the column `vector`, in place of its older one."""
    written = json.loads(fragment)
    *older, newest = written["files"]
    for file in older:
        file["fields"] = [_REPLACED if field == vector_id else field for field in file["fields"]]
    newest["fields"] = [vector_id]
    return FragmentMetadata.from_json(json.dumps(written))


def _with_space(schema: LanceSchema, space: Space) -> LanceSchema:
    """Return the schema with another space in its metadata, and the same field ids.

    Lance has no call that changes a schema's metadata in the same commit as its data; its pickling support can.
    """
    rebuild, (metadata, *fields) = cast(Any, schema.__reduce__())
    changed = json.loads(metadata) | {SPACE_KEY.decode(): list(space.to_json().encode())}
    return cast(LanceSchema, rebuild(json.dumps(changed), *fields))
