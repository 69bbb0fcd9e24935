"""Rotate the vectors of an existing table: part by part in a pool of workers, then in one commit.

Nothing is encoded again. The column `vector` gets new files, no other column is read or written, and one
compare-and-swap commit swaps the files and changes the space. So a reader sees the table before or after, never in
between; older versions stay as they were. Owns the two passes: the moments of all vectors, then the rotation of each.
Owns neither the fit (`vectors/rotation.py`) nor the pool.

Shapes: B rows, D full width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, LanceFragment
from lance.schema import LanceSchema

from pipelines.tables.commits import commit_rewritten, drop_indexes, remove_config
from pipelines.tables.fingerprinted import check_fingerprinted, rotation_name
from pipelines.tables.prefixes import is_prefix_column
from pipelines.tables.rotations import load_rotation, save_rotation
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Halves, to_arrow, to_numpy
from pipelines.vectors.rotation import Moments, Rotation
from schemas.columns import SPACE_KEY, VECTOR, Space, vector_field
from schemas.config import StorageConfig
from schemas.errors import NotMatryoshka, RunError, TableError
from schemas.plans import FUNNEL_KEY
from schemas.printable import counted
from schemas.work import RetryPolicy, WorkPool

_ROTATED = f"{VECTOR}_rotated"
_REPLACED = -2  # Lance's mark for a column of a data file that another file replaces
_PARTS_PER_ACTOR = 4


@dataclass(frozen=True)
class RotatePart:
    """Some fragments of a table.

    Attributes:
        fragment_ids: The fragments.
        rotation: Fingerprint of the rotation to apply; None asks for the moments that it is fitted on.
    """

    fragment_ids: tuple[int, ...]
    rotation: str | None = None


class Rotator:
    """Works on the parts of one table. Lives in an actor."""

    def __init__(self, uri: str, version: int, storage: StorageConfig) -> None:
        """Open the table at the version that is rotated."""
        self._table = VectorTable.open(uri, version, storage)
        self._done = Counter[str](fragments=0, fitted=0, rotated=0)

    def run(self, part: RotatePart) -> Moments | tuple[str, ...]:
        """Return the moments of a part, or the JSON of its rotated fragments."""
        if part.rotation is None:
            return moments_of(self._table, part.fragment_ids, partial(self._count, "fitted"))
        written = rotate_fragments(self._table, part.fragment_ids, part.rotation, partial(self._count, "rotated"))
        self._count("fragments", len(written))
        return written

    def _count(self, what: str, number: int) -> None:
        self._done[what] += number

    def progress(self) -> dict[str, int]:
        """Return the fragments written, and the rows of each pass."""
        return dict(self._done)


def rotate_parts(
    table: VectorTable, pool: WorkPool[RotatePart, Any], tell: Callable[[str, int], None] = lambda step, rows: None
) -> tuple[Rotation, list[str]]:
    """Fit a rotation on all vectors of a table, store it beside the table, and write the vectors rotated.

    Args:
        table: It has rows.
        pool: Actors that each hold a `Rotator` of this table and version.
        tell: Told often how many rows a step has done: `fitted`, then `rotated`.

    Returns:
        The rotation, and the JSON of the rotated fragments, which are not yet visible.

    Raises:
        RunError: A part failed; the table is unchanged.
        TableError: Rows have no direction, as another tool may have written them; the table is unchanged.
    """
    ids = [fragment.fragment_id for fragment in table.dataset.get_fragments()]
    size = -(-len(ids) // (_PARTS_PER_ACTOR * pool.actors))
    parts = [RotatePart(tuple(ids[start : start + size])) for start in range(0, len(ids), size)]
    first, *others = _results(pool, parts, "fitted", tell)
    moments = sum(others, first)
    if moments.lost:
        raise TableError(
            f"{counted(moments.lost, 'row')} of {table.uri} have vectors without a direction (all zeros, NaN or "
            "infinity), which another tool has written: nothing is rotated; give them vectors, or erase them with "
            "`mlake delete`"
        )
    rotation = moments.rotation()
    save_rotation(rotation, table.uri, table.storage)
    parts = [replace(part, rotation=rotation.fingerprint) for part in parts]
    written = _results(pool, parts, "rotated", tell)
    return rotation, [fragment for fragments in written for fragment in fragments]


def check_rotatable(table: VectorTable, *, even_if_trained: bool = False) -> None:
    """Refuse a table that must not be rotated.

    Args:
        table: The table.
        even_if_trained: Rotate although its encoder is Matryoshka-trained.

    Raises:
        TableError: It is rotated already, its encoder is Matryoshka-trained, or it is empty.
    """
    space = table.space
    if space.rotation is not None:
        raise TableError(f"{table.uri} is rotated already ({space.rotation}); its ladder is {space.ladder}")
    if len(space.ladder.dims) > 1 and not even_if_trained:
        raise TableError(
            f"{table.uri} holds vectors of {space.encoder_name}, which is Matryoshka-trained for {space.ladder}: "
            "a rotation helps some tasks and harms others (wordllama at 64 dims: Cranfield nDCG@10 .225 to .275, STS "
            ".730 to .698); compare on your own queries by `mlake evaluate` with the baseline `pca`, and if that is "
            f"better, run: mlake rotate {table.uri} --even-if-trained"
        )
    if not table.dataset.count_rows():
        raise TableError(f"{table.uri} has no rows to fit a rotation on; run `mlake embed` first")


def moments_of(
    table: VectorTable, fragment_ids: Sequence[int], count: Callable[[int], None] = lambda rows: None
) -> Moments:
    """Sum the moments of the vectors in some fragments; `count` is told of each block of rows."""
    width = table.space.ladder.width

    def blocks() -> Iterator[Halves]:
        yield np.empty((0, width), np.float16)
        for fragment_id in fragment_ids:
            for batch in _fragment(table, fragment_id).to_batches(columns=[VECTOR]):
                yield to_numpy(batch.column(0))
                count(batch.num_rows)

    return Moments.of(blocks())


def rotate_fragments(
    table: VectorTable,
    fragment_ids: Sequence[int],
    fingerprint: str,
    count: Callable[[int], None] = lambda rows: None,
) -> tuple[str, ...]:
    """Rotate the vectors of some fragments into new files that no reader sees before `commit_rotation`.

    Args:
        table: Open at the version that `commit_rotation` will replace.
        fragment_ids: Fragments of that version.
        fingerprint: A rotation saved beside the table.
        count: Told of each block of rows.

    Returns:
        JSON of the fragments with their new files.
    """
    rotation = load_rotation(fingerprint, table.uri, table.storage)
    field = vector_field(table.space.ladder.width, _ROTATED).with_nullable(True)

    def rotated(batch: pa.RecordBatch) -> pa.RecordBatch:
        x_BD = to_numpy(batch.column(VECTOR)).astype(np.float32)
        count(batch.num_rows)
        return pa.RecordBatch.from_arrays([to_arrow(rotation.apply(x_BD))], schema=pa.schema([field]))

    written = []
    for fragment_id in fragment_ids:
        metadata, _ = _fragment(table, fragment_id).merge_columns(rotated, columns=[VECTOR])
        written.append(json.dumps(metadata.to_json()))
    return tuple(written)


def commit_rotation(table: VectorTable, rotation: Rotation, fragments: Sequence[str]) -> VectorTable:
    """Make the rotated vectors those of the table, together with the new space, in one commit.

    What was derived from the vectors before the rotation goes: prefix columns in the same commit; indexes over the
    vectors, and funnels, before it.

    Args:
        table: Open at the version that was rotated.
        rotation: The rotation, saved already.
        fragments: Results of `rotate_fragments` for every fragment of that version.

    Returns:
        The rotated table.

    Raises:
        TableError: Rows were added, removed or moved since; the vectors are as they were.
        RunExpired: `mlake clean` has given up the rotation, or a file.
    """
    dataset = table.dataset
    check_fingerprinted(rotation_name(rotation.fingerprint), dataset, table)
    ids = {field.name(): field.id() for field in dataset.lance_schema.fields()}
    prefixes = [name for name in ids if is_prefix_column(name)]
    leaving = {ids[name] for name in prefixes}
    rotated = [_replace_vector_file(text, ids[VECTOR], leaving) for text in fragments]
    schema = _with_space(dataset.lance_schema, rotated_space(table.space, rotation), without=prefixes)
    _drop_derived(table, prefixes)
    try:
        commit_rewritten(dataset, rotated, schema, table.storage)
    except CommitConflictError:
        raise TableError(
            f"{table.uri} changed while it was being rotated, so its vectors are as they were, and only its "
            "funnels and vector indexes are gone; run `mlake rotate` again when no other job writes to it"
        ) from None
    _drop_derived(table, prefixes)
    return table.refresh()


def _drop_derived(table: VectorTable, prefixes: Sequence[str]) -> None:
    """Drop what was made from vectors that are replaced: indexes and funnels.

    It is done before the commit, so that none is ever used on the new vectors, and after it, since a run beside this
    one may have made another.
    """
    drop_indexes(table.uri, (VECTOR, *prefixes), table.storage)
    remove_config(table.uri, (FUNNEL_KEY, f"lake.{VECTOR}_"), table.storage)


def rotated_space(space: Space, rotation: Rotation) -> Space:
    """Return the space of a table's vectors after a rotation.

    Raises:
        NotMatryoshka: The rotation is of another width.
    """
    if rotation.ladder.width != space.ladder.width:
        raise NotMatryoshka(f"a rotation of {rotation.ladder.width} dims does not fit vectors of {space.ladder.width}")
    return space.model_copy(update={"rotation": rotation.fingerprint, "ladder": rotation.ladder})


def _results(
    pool: WorkPool[RotatePart, Any], parts: Sequence[RotatePart], step: str, tell: Callable[[str, int], None]
) -> Iterator[Any]:
    """Yield the result of every part; only the death of an actor is worth another try."""
    for outcome in pool.run(parts, RetryPolicy[RotatePart](is_final=lambda error: True)):
        if outcome is None:
            tell(step, pool.progress().get(step, 0))
            continue
        if outcome.error is not None:
            raise RunError(
                f"fragments {outcome.item.fragment_ids} could not be rotated: {outcome.error}; the table is unchanged"
            ) from outcome.error
        yield outcome.result


def _fragment(table: VectorTable, fragment_id: int) -> LanceFragment:
    return cast(LanceFragment, table.dataset.get_fragment(fragment_id))


def _replace_vector_file(fragment: str, vector_id: int, leaving: Set[int]) -> FragmentMetadata:
    """Make a fragment's newest file the one of the column `vector`, in place of its older one; some columns leave."""
    written = json.loads(fragment)
    *older, newest = written["files"]
    for file in older:
        file["fields"] = [_REPLACED if field in {vector_id, *leaving} else field for field in file["fields"]]
    newest["fields"] = [vector_id]
    written["files"] = [file for file in (*older, newest) if set(file["fields"]) != {_REPLACED}]
    return FragmentMetadata.from_json(json.dumps(written))


def _with_space(schema: LanceSchema, space: Space, without: Sequence[str]) -> LanceSchema:
    """Return the schema with another space in its metadata, without some columns, and with the same field ids.

    Lance has no call that changes a schema in the same commit as its data; its pickling support can.
    """
    rebuild, (metadata, *fields) = cast(Any, schema.__reduce__())
    changed = json.loads(metadata) | {SPACE_KEY.decode(): list(space.to_json().encode())}
    columns = [column.name() for column in schema.fields() for _ in range(_count_fields(column))]
    staying = [field for field, column in zip(fields, columns, strict=True) if column not in without]
    return cast(LanceSchema, rebuild(json.dumps(changed), *staying))


def _count_fields(field: Any) -> int:
    """Count a field and all below it, as Lance lists them one after the other."""
    return 1 + sum(map(_count_fields, field.children()))
