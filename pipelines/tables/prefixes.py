"""Prefix columns: `vector_<dim>` for each asked dim, cut fragment by fragment, each full vector read once for all dims.

Owns how a prefix column is made and how appended fragments get theirs. Rewrites nothing: each prefix is a file of its
own beside the fragment's. Owns neither the indexes over the columns (`indexes.py`) nor the spreading over machines.

A new column is filled under a staging name that no reader looks at. It takes its own name once every fragment has it,
so a search never sees a half-filled prefix. The fragments' metadata say what is done: after a kill, the next run cuts
only what was not committed.

Shapes: B rows of a batch, D full width, M prefix width.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from lance import LanceDataset, LanceFragment
from lance.commit import CommitConflictError
from lance.file import LanceFileWriter
from lance.fragment import DataFile

from pipelines.storage.s3 import lance_access
from pipelines.tables.commits import add_columns, commit_column_files, rename_columns, update_config
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.columns import VECTOR, prefix_column, prefix_dims, vector_field
from schemas.errors import DimNotInLadder

_STAGING = "_filling"
_READ_BYTES = 16 << 20


@dataclass(frozen=True)
class PrefixTask:
    """One fragment and the prefixes that it lacks: the unit of work, retry and resume."""

    fragment: int
    dims: tuple[int, ...]


@dataclass(frozen=True)
class PrefixFiles:
    """The files that a worker wrote for one fragment; no reader sees them before `commit_prefixes`.

    Attributes:
        fragment: Id of the fragment.
        files: Name and bytes of the file in the table's data folder, by dim.
        rows: Rows cut, deleted ones included: a prefix file has as many rows as the fragment's other files.
    """

    fragment: int
    files: dict[int, tuple[str, int]]
    rows: int


def add_prefixes(table: VectorTable, dims: Sequence[int]) -> VectorTable:
    """Add the prefix columns `vector_<dim>` to a table, or fill them where fragments were appended since.

    Args:
        table: The table; this handle stays at its version.
        dims: Rungs of the space's ladder below the full width.

    Returns:
        The table with its prefixes complete.

    Raises:
        DimError: The space must not be cut there, or `dims` names the full width.

    Example:
        >>> add_prefixes(VectorTable.open("lake/news.lance"), [64]).search("football", dim=64)  # doctest: +SKIP
    """
    table = declare_prefixes(table, dims)
    while tasks := plan_prefixes(table, dims):
        for task in tasks:
            table = commit_prefixes(table, [cut_fragment(table, task)])
    return publish_prefixes(table, dims)


def is_prefix_column(name: str) -> bool:
    """Tell whether a column holds a prefix, complete or being filled."""
    return bool(prefix_dims([name.removesuffix(_STAGING)]))


def check_dims(table: VectorTable, dims: Sequence[int]) -> tuple[int, ...]:
    """Return the asked dims, ascending and once each.

    Raises:
        DimError: One is no rung of the ladder, or is the full width, which needs no column beside `vector`.
    """
    width = table.space.ladder.width
    for dim in dims:
        if table.space.ladder.check(dim, table.uri) == width:
            rungs = ", ".join(map(str, table.space.ladder.dims[:-1]))
            raise DimNotInLadder(
                f"{table.uri} holds {width} dims in `vector` already; shorter prefixes: {rungs or 'none'}"
            )
    return tuple(sorted(set(dims)))


def declare_prefixes(table: VectorTable, dims: Sequence[int]) -> VectorTable:
    """Add the missing columns, empty and under their staging names; this writes no data."""
    table = table.refresh()
    names = set(table.dataset.schema.names)
    missing = [d for d in check_dims(table, dims) if not {prefix_column(d), prefix_column(d) + _STAGING} & names]
    if missing:
        add_columns(table.uri, [_field(dim) for dim in missing], table.storage)
    return table.refresh()


def plan_prefixes(table: VectorTable, dims: Sequence[int]) -> list[PrefixTask]:
    """List the fragments that lack a prefix, with the dims they lack; empty when all is done.

    Fragments that an earlier complete run has checked are skipped. A newer one lacks a prefix if it has no file for it,
    or if compaction merged it from fragments of which some had none.
    """
    dataset = table.dataset
    lacking: dict[int, list[int]] = {}
    for dim in check_dims(table, dims):
        column, field = _column(dataset, dim)
        checked = int(dataset.config().get(_checked_key(dim), -1))
        for fragment in dataset.get_fragments():
            if fragment.fragment_id <= checked:
                continue
            has_file = any(field in file.fields for file in fragment.data_files())
            if not has_file or fragment.count_rows(f"{column} IS NULL"):
                lacking.setdefault(fragment.fragment_id, []).append(dim)
    return [PrefixTask(fragment, tuple(missing)) for fragment, missing in sorted(lacking.items())]


def cut_fragment(table: VectorTable, task: PrefixTask) -> PrefixFiles:
    """Read a fragment's vectors once and write one file per missing prefix.

    Memory is bounded by a few batches of 16 MiB, whatever the fragment's size.
    """
    dataset, access = table.dataset, lance_access(table.uri, table.storage)
    names = {dim: f"{uuid.uuid4().hex}.lance" for dim in task.dims}
    schemas = {dim: pa.schema([_field(dim)]) for dim in task.dims}
    writers = {
        dim: LanceFileWriter(f"{table.uri}/data/{name}", schemas[dim], version=dataset.data_storage_version, **access)
        for dim, name in names.items()
    }
    scanner = dataset.scanner(
        columns=[VECTOR],
        fragments=[_fragment(dataset, task.fragment)],
        with_row_id=True,  # Lance returns deleted rows only together with the row id, which is null for them
        include_deleted_rows=True,
        batch_size=max(1, _READ_BYTES // (2 * table.space.ladder.width)),
        batch_readahead=1,
        fragment_readahead=1,
        io_buffer_size=2 * _READ_BYTES,
    )
    rows = 0
    for batch in scanner.to_batches():
        rows += batch.num_rows
        full_BD = to_numpy(batch.column(VECTOR))
        for dim, writer in writers.items():
            writer.write_batch(pa.RecordBatch.from_arrays([to_arrow(cut(full_BD, dim))], schema=schemas[dim]))
    for writer in writers.values():
        writer.close()
    return PrefixFiles(task.fragment, {dim: (names[dim], writers[dim].size_bytes or 0) for dim in task.dims}, rows)


def commit_prefixes(table: VectorTable, results: Sequence[PrefixFiles]) -> VectorTable:
    """Make written prefixes part of their fragments, in one commit per dim.

    Rows that others append or delete meanwhile cause no conflict. Fragments that were compacted away, or filled by
    another run, since they were read are left out; `plan_prefixes` finds their successors.
    """
    for dim in sorted({dim for result in results for dim in result.files}):
        files = {result.fragment: result.files[dim] for result in results if dim in result.files}
        while files:
            table = table.refresh()
            lacking = {task.fragment for task in plan_prefixes(table, [dim])}
            files = {fragment: file for fragment, file in files.items() if fragment in lacking}
            try:
                commit_column_files(table.dataset, _data_files(table.dataset, dim, files), table.storage)
                break
            except CommitConflictError:
                continue
    return table.refresh()


def publish_prefixes(table: VectorTable, dims: Sequence[int]) -> VectorTable:
    """Rename complete columns from their staging names, and record which fragments have been checked.

    Call it when `plan_prefixes` lists nothing more for this table at this version.
    """
    dataset = table.dataset
    newest = max((fragment.fragment_id for fragment in dataset.get_fragments()), default=-1)
    staged = [dim for dim in check_dims(table, dims) if _column(dataset, dim)[0].endswith(_STAGING)]
    if staged:
        names = {prefix_column(dim) + _STAGING: prefix_column(dim) for dim in staged}
        rename_columns(table.uri, names, table.storage)
    update_config(table.uri, {_checked_key(dim): str(newest) for dim in dims}, table.storage)
    return table.refresh()


def _field(dim: int) -> pa.Field:
    """Make the staged field. It is nullable: a writer that does not know the column yet adds rows without it."""
    return vector_field(dim, prefix_column(dim) + _STAGING).with_nullable(True)


def _checked_key(dim: int) -> str:
    return f"lake.{prefix_column(dim)}.checked_through_fragment"


def _fragment(dataset: LanceDataset, number: int) -> LanceFragment:
    return next(fragment for fragment in dataset.get_fragments() if fragment.fragment_id == number)


def _column(dataset: LanceDataset, dim: int) -> tuple[str, int]:
    """Return the present name of a prefix column, and its field id."""
    ids = {field.name(): field.id() for field in dataset.lance_schema.fields()}
    name = prefix_column(dim)
    return next((column, ids[column]) for column in (name, name + _STAGING) if column in ids)


def _data_files(dataset: LanceDataset, dim: int, files: dict[int, tuple[str, int]]) -> dict[int, DataFile]:
    """Describe one prefix's files to Lance, by fragment."""
    field, described = _column(dataset, dim)[1], {}
    for fragment, (name, size) in files.items():
        like = _fragment(dataset, fragment).data_files()[0]
        described[fragment] = DataFile(
            path=name,
            fields=[field],
            column_indices=[0],
            file_major_version=like.file_major_version,
            file_minor_version=like.file_minor_version,
            file_size_bytes=size,
        )
    return described
