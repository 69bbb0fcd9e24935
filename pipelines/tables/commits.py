"""The Lance commits of vector tables, one function each.

Those that change no row are in `compaction_commits`, those of small tables beside them in `companion_commits`. No other
module commits.

A commit makes a new version of a dataset, or fails. A function that takes a `dataset` commits against the version that
it is open at, and raises `CommitConflictError` if another writer was faster. A function that takes a `uri` opens the
newest version, does only what is not done yet, and so may be repeated.

Owns how writers that race cannot harm each other, and the retries while a store fails. Knows nothing of spaces, vectors
or shards' contents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from lance import LanceDataset, LanceOperation, Transaction
from lance.commit import CommitConflictError
from lance.dataset import Index
from lance.fragment import DataFile, FragmentMetadata
from lance.schema import LanceSchema

from pipelines.storage.retry import retry_transient
from pipelines.storage.s3 import check_conditional_writes, lance_access
from pipelines.tables.fencing import check_files
from pipelines.tables.opening import open_dataset
from schemas.config import StorageConfig
from schemas.errors import TableExists, TableNotFound


def create_dataset(uri: str, schema: pa.Schema, storage: StorageConfig) -> LanceDataset:
    """Create an empty dataset, by a commit that has no version before it. Of racing creators exactly one succeeds.

    `write_dataset(mode="create")` does not do: several racing calls succeed, and the last one removes the others' rows.

    Raises:
        TableExists: There is something at that address already.
    """
    return retry_transient(uri, partial(_create, uri, schema, storage))


def commit_fragments(
    dataset: LanceDataset, new: list[FragmentMetadata], stale: set[int], run: str, storage: StorageConfig
) -> LanceDataset:
    """Add fragments and remove the rows of stale shards in one compare-and-swap commit.

    Lance's Append rebases silently, and a retry would add a shard twice. Merge conflicts with every other change of
    rows, but must not shorten the list of fragments. So commits that remove rows are Updates, and each Update also
    names the oldest fragment that stays, unchanged, which makes any two of them conflict.

    Args:
        dataset: Open at the version to compare with.
        new: Fragments written by `lance.fragment.write_fragments`.
        stale: Shards whose rows leave.
        run: Id of the run, kept in the transaction.
        storage: Where S3 is.

    Raises:
        CommitConflictError: Rows were added, removed or moved since `dataset` was opened.
        RunExpired: A new file is gone, or given up by a cleaner.
    """
    operation = _replace_rows(dataset, new, _of_shards(stale)) if stale else _add_rows(dataset, new)
    transaction = Transaction(dataset.version, operation, transaction_properties={"lake.run": run})
    check_files(dataset, data_paths(new), storage)
    return _swap(dataset, transaction, storage)


def commit_without(dataset: LanceDataset, where: str, run: str, storage: StorageConfig) -> LanceDataset:
    """Remove the rows that satisfy SQL in one compare-and-swap commit.

    Raises:
        CommitConflictError: Rows were added, removed or moved since `dataset` was opened.
    """
    operation = _replace_rows(dataset, [], where)
    return _swap(dataset, Transaction(dataset.version, operation, transaction_properties={"lake.run": run}), storage)


def commit_rewritten(
    dataset: LanceDataset, fragments: list[FragmentMetadata], schema: LanceSchema, storage: StorageConfig
) -> LanceDataset:
    """Swap the data files and the schema of all fragments in one compare-and-swap commit; rows stay where they are.

    Args:
        dataset: Open at the version that was rewritten.
        fragments: Every fragment of that version, with its new files.
        schema: The schema afterwards, with the field ids of the present one.
        storage: Where S3 is.

    Raises:
        CommitConflictError: Rows were added, removed or moved since `dataset` was opened.
        RunExpired: A new file is gone, or given up by a cleaner.
    """
    transaction = Transaction(dataset.version, LanceOperation.Merge(fragments, schema))
    there = data_paths(fragment.metadata for fragment in dataset.get_fragments())
    check_files(dataset, data_paths(fragments) - there, storage)
    return _swap(dataset, transaction, storage)


def commit_nothing(uri: str, storage: StorageConfig) -> LanceDataset:
    """Make a new version with the same rows, so that commits against an older one conflict, and look again."""
    while True:
        dataset = open_dataset(uri, storage)
        same = [fragment.metadata for fragment in dataset.get_fragments()]
        with contextlib.suppress(CommitConflictError):
            return _swap(
                dataset, Transaction(dataset.version, LanceOperation.Merge(same, dataset.lance_schema)), storage
            )


def remove_all_rows(dataset: LanceDataset, storage: StorageConfig) -> None:
    """Remove the rows of one version; rows that are added meanwhile stay.

    Raises:
        CommitConflictError: Another writer removed some of them.
    """
    if ids := [fragment.fragment_id for fragment in dataset.get_fragments()]:
        operation = LanceOperation.Update(removed_fragment_ids=ids, updated_fragments=[], new_fragments=[])
        _swap(dataset, Transaction(dataset.version, operation), storage)


def commit_column_files(dataset: LanceDataset, files: Mapping[int, DataFile], storage: StorageConfig) -> None:
    """Give fragments the data file of a column that is empty in them.

    Args:
        dataset: Open at the version that was looked at.
        files: The file by fragment id; without any, nothing is committed.
        storage: Where S3 is.

    Raises:
        RunExpired: A file is gone, or given up by a cleaner.
        CommitConflictError: A fragment was rewritten, or got the column, since `dataset` was opened.
    """
    if files:
        groups = [LanceOperation.DataReplacementGroup(fragment, file) for fragment, file in files.items()]
        transaction = Transaction(dataset.version, LanceOperation.DataReplacement(groups))
        check_files(dataset, {f"data/{file.path}" for file in files.values()}, storage)
        _swap(dataset, transaction, storage)


def add_columns(uri: str, fields: Sequence[pa.Field], storage: StorageConfig) -> None:
    """Add nullable columns that hold nothing yet; those that exist stay as they are."""

    def add() -> None:
        dataset = open_dataset(uri, storage)
        if missing := [field for field in fields if field.name not in dataset.schema.names]:
            dataset.add_columns(missing)

    retry_transient(uri, add)


def replace_columns(uri: str, fields: Sequence[pa.Field], storage: StorageConfig) -> None:
    """Give columns that hold only nulls another type; those that have it already stay as they are."""

    def drop() -> None:
        dataset = open_dataset(uri, storage)
        types = dict(zip(dataset.schema.names, dataset.schema.types, strict=True))
        if other := [field.name for field in fields if types.get(field.name, field.type) != field.type]:
            dataset.drop_columns(other)

    retry_transient(uri, drop)
    add_columns(uri, fields, storage)


def allow_nulls(uri: str, names: Sequence[str], storage: StorageConfig) -> None:
    """Let columns hold nulls; those that may already stay as they are."""

    def allow() -> None:
        dataset = open_dataset(uri, storage)
        todo: list[Any] = [{"path": n, "nullable": True} for n in names if not dataset.schema.field(n).nullable]
        if todo:
            dataset.alter_columns(*todo)

    retry_transient(uri, allow)


def rename_columns(uri: str, names: Mapping[str, str], storage: StorageConfig) -> None:
    """Rename columns, old name to new name; those that have their new name already stay as they are."""

    def rename() -> None:
        dataset = open_dataset(uri, storage)
        # Lance annotates one alteration as many.
        todo: list[Any] = [{"path": old, "name": new} for old, new in names.items() if old in dataset.schema.names]
        if todo:
            dataset.alter_columns(*todo)

    retry_transient(uri, rename)


def update_config(uri: str, values: Mapping[str, str], storage: StorageConfig) -> None:
    """Set keys of a dataset's config, such as a tuned funnel; without a change, nothing is committed."""

    def update() -> None:
        dataset = open_dataset(uri, storage)
        config = dataset.config()
        if any(config.get(key) != value for key, value in values.items()):
            dataset.update_config(dict(values))

    retry_transient(uri, update)


def remove_config(uri: str, prefixes: tuple[str, ...], storage: StorageConfig) -> None:
    """Remove the keys of a dataset's config that begin with one of these; without any, nothing is committed."""

    def remove() -> None:
        dataset = open_dataset(uri, storage)
        if keys := [key for key in dataset.config() if key.startswith(prefixes)]:
            dataset.delete_config_keys(keys)

    retry_transient(uri, remove)


def commit_index(uri: str, name: str, column: str, segments: Sequence[Index], storage: StorageConfig) -> None:
    """Publish segments as one index, in place of an older one of that name."""

    def publish() -> None:
        dataset = open_dataset(uri, storage)
        published = {segment.uuid for index in dataset.describe_indices() for segment in index.segments}
        if not {segment.uuid for segment in segments} <= published:
            dataset.commit_existing_index_segments(name, column, list(segments))

    retry_transient(uri, publish)


def extend_index(uri: str, name: str, storage: StorageConfig) -> None:
    """Index the rows that an index does not cover yet, as one more segment; without such rows, do nothing."""

    def extend() -> None:
        dataset = open_dataset(uri, storage)
        if dataset.stats.index_stats(name)["num_unindexed_rows"]:
            dataset.optimize.optimize_indices(num_indices_to_merge=0, index_names=[name])

    retry_transient(uri, extend)


def drop_indexes(uri: str, columns: Collection[str], storage: StorageConfig) -> None:
    """Drop every index over one of these columns."""

    def drop() -> None:
        dataset = open_dataset(uri, storage)
        for index in dataset.describe_indices():
            if not set(columns).isdisjoint(index.field_names):
                dataset.drop_index(index.name)

    retry_transient(uri, drop)


def create_scalar_index(uri: str, column: str, storage: StorageConfig) -> None:
    """Build a B-tree over a scalar column, in place of an older one."""
    retry_transient(uri, lambda: open_dataset(uri, storage).create_scalar_index(column, "BTREE", replace=True))


def set_schema_metadata(uri: str, key: str, value: str, storage: StorageConfig) -> None:
    """Set a key of a dataset's schema metadata.

    Raises:
        CommitConflictError: Another writer changed it meanwhile.
    """
    try:
        retry_transient(uri, lambda: open_dataset(uri, storage).update_schema_metadata({key: value}))
    except OSError as error:
        if "concurrent transaction" in str(error):
            raise CommitConflictError(str(error)) from None
        raise


def data_paths(fragments: Iterable[FragmentMetadata]) -> set[str]:
    """Return the data files of fragments, relative to their table's address."""
    return {f"data/{file.path}" for fragment in fragments for file in fragment.files}


def _swap(dataset: LanceDataset, transaction: Transaction, storage: StorageConfig) -> LanceDataset:
    """Commit against the version that `dataset` is open at; a conflict is for the caller, who must look again first."""
    check_conditional_writes(dataset.uri, storage)
    return retry_transient(
        dataset.uri,
        lambda: LanceDataset.commit(dataset, transaction, max_retries=0, **lance_access(dataset.uri, storage)),
        final=(CommitConflictError,),
    )


def _create(uri: str, schema: pa.Schema, storage: StorageConfig) -> LanceDataset:
    check_conditional_writes(uri, storage)
    nothing = Transaction(0, LanceOperation.Overwrite(schema, []))
    try:
        return LanceDataset.commit(
            uri, nothing, max_retries=0, enable_stable_row_ids=True, **lance_access(uri, storage)
        )
    except (ValueError, OSError):
        try:
            open_dataset(uri, storage)
        except TableNotFound:
            pass
        else:
            raise TableExists(f"{uri} exists already; open it, or name another table") from None
        raise


def _add_rows(dataset: LanceDataset, new: list[FragmentMetadata]) -> LanceOperation.BaseOperation:
    return LanceOperation.Merge([f.metadata for f in dataset.get_fragments()] + new, dataset.lance_schema)


def _of_shards(shards: set[int]) -> str:
    return f"shard IN ({', '.join(map(str, shards))})"


def _replace_rows(dataset: LanceDataset, new: list[FragmentMetadata], predicate: str) -> LanceOperation.BaseOperation:
    fragments = dataset.get_fragments()
    removed: list[int] = []
    updated: list[FragmentMetadata] = []
    for fragment in fragments:
        if not fragment.count_rows(predicate):
            continue
        rest = fragment.delete(predicate)
        if rest is None:
            removed.append(fragment.fragment_id)
        else:
            updated.append(rest)
    touched = {*removed, *(f.id for f in updated)}
    if staying := [f for f in fragments if f.fragment_id not in removed]:
        oldest = min(staying, key=lambda f: f.fragment_id)
        if oldest.fragment_id not in touched:
            updated.append(oldest.metadata)
    return LanceOperation.Update(removed_fragment_ids=removed, updated_fragments=updated, new_fragments=new)
