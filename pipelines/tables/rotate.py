"""Rotating a table that is there already: its vectors turn in place, without encoding anything again.

The column `vector` gets new files; no other column is read or written. One compare-and-swap commit swaps the files and
says the new space, so a reader sees the table as it was or rotated, never half; older versions stay as they were.
Owns this one rewrite; how fragments are spread over machines is the job's.

Shapes: B rows, D full width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance import LanceDataset, LanceOperation, Transaction
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, LanceFragment
from lance.schema import LanceSchema

from pipelines.storage.s3 import lance_options
from pipelines.tables.rotations import load_rotation, save_rotation
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.rotation import Moments, Rotation
from schemas.columns import SPACE_KEY, VECTOR, Space, vector_field
from schemas.errors import NotMatryoshka, TableError

_ROTATED = f"{VECTOR}_rotated"
_REPLACED = -2  # what Lance writes for a column of a data file that another file has taken the place of


def check_rotatable(table: VectorTable) -> None:
    """Refuse a table that a rotation would not help.

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
        raise TableError(f"{table.uri} has no rows to fit a rotation on; run `python -m jobs embed` first")


def moments_of(table: VectorTable, fragment_ids: Sequence[int]) -> Moments:
    """Sum the moments of some fragments' vectors."""
    width = table.space.ladder.width

    def blocks() -> Iterator[npt.NDArray[np.float16]]:
        yield np.empty((0, width), np.float16)
        for fragment_id in fragment_ids:
            for batch in _fragment(table, fragment_id).to_batches(columns=[VECTOR]):
                yield to_numpy(batch.column(0))

    return Moments.of(blocks())


def rotate_fragments(table: VectorTable, fragment_ids: Sequence[int], fingerprint: str) -> tuple[str, ...]:
    """Write some fragments' vectors rotated, into files that nobody sees until `land_rotation`.

    Args:
        table: Open at the version that `land_rotation` will replace.
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


def land_rotation(table: VectorTable, rotation: Rotation, fragments: Sequence[str]) -> VectorTable:
    """Make the rotated vectors the table's own, and say the space they are in now: one commit.

    Indexes on `vector` are dropped: they know the vectors as they were.

    Args:
        table: Open at the version that was rotated.
        rotation: The rotation, saved already.
        fragments: What `rotate_fragments` returned, for every fragment of that version.

    Raises:
        TableError: Rows came, went or moved since; nothing is changed.
    """
    dataset = table.dataset
    vector_id = cast(Any, dataset.lance_schema.field(VECTOR)).id()
    turned = [_replace_vector_file(text, vector_id) for text in fragments]
    schema = _with_space(dataset.lance_schema, rotated_space(table.space, rotation))
    transaction = Transaction(dataset.version, LanceOperation.Merge(turned, schema))
    _drop_vector_indices(table)
    try:
        LanceDataset.commit(dataset, transaction, storage_options=lance_options(table.storage), max_retries=0)
    except CommitConflictError:
        raise TableError(
            f"{table.uri} changed while it was being rotated, so nothing was; run `python -m jobs rotate` again "
            "when no other job writes to it"
        ) from None
    landed = table.refresh()
    _drop_vector_indices(landed)
    return landed


def rotated_space(space: Space, rotation: Rotation) -> Space:
    """Return the space that a rotation turns a space into.

    Raises:
        NotMatryoshka: The rotation is of another width.
    """
    if rotation.ladder.width != space.ladder.width:
        raise NotMatryoshka(f"a rotation of {rotation.ladder.width} dims does not fit vectors of {space.ladder.width}")
    return space.model_copy(update={"rotation": rotation.fingerprint, "ladder": rotation.ladder})


def rotate_here(table: VectorTable) -> VectorTable:
    """Fit, rotate and land in this process: for small tables."""
    check_rotatable(table)
    ids = [fragment.fragment_id for fragment in table.dataset.get_fragments()]
    rotation = moments_of(table, ids).rotation()
    save_rotation(rotation, table.uri, table.storage)
    return land_rotation(table, rotation, rotate_fragments(table, ids, rotation.fingerprint))


def _fragment(table: VectorTable, fragment_id: int) -> LanceFragment:
    return cast(LanceFragment, table.dataset.get_fragment(fragment_id))


def _replace_vector_file(fragment: str, vector_id: int) -> FragmentMetadata:
    """Let a fragment's newest file stand for the column `vector`, and its older ones no longer."""
    said = json.loads(fragment)
    *older, newest = said["files"]
    for file in older:
        file["fields"] = [_REPLACED if field == vector_id else field for field in file["fields"]]
    newest["fields"] = [vector_id]
    return FragmentMetadata.from_json(json.dumps(said))


def _drop_vector_indices(table: VectorTable) -> None:
    dataset = table.refresh().dataset
    for index in dataset.describe_indices():
        if VECTOR in index.field_names:
            dataset.drop_index(index.name)


def _with_space(schema: LanceSchema, space: Space) -> LanceSchema:
    """Return the schema with another space in its metadata, and its field ids as they are.

    Lance offers no way to change a schema's metadata in the same commit as its data; what it offers for pickling does.
    """
    rebuild, (metadata, *fields) = cast(Any, schema.__reduce__())
    changed = json.loads(metadata) | {SPACE_KEY.decode(): list(space.to_json().encode())}
    return cast(LanceSchema, rebuild(json.dumps(changed), *fields))
