"""How rows come and go: opening, creating and changing a Lance dataset so that racing writers cannot harm each other.

Owns the three commits whose conflicts were tried out: the first version, rows that come, and rows that come in place of
others. Knows nothing of spaces or vectors.
"""

from __future__ import annotations

from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset, LanceOperation, Transaction
from lance.fragment import FragmentMetadata

from pipelines.storage.s3 import lance_options
from schemas.config import StorageConfig
from schemas.errors import TableExists, TableNotFound


def open_dataset(uri: str, storage: StorageConfig, version: int | str | None) -> LanceDataset:
    """Open a dataset at a version number or tag; None is the latest.

    Raises:
        TableNotFound: Nothing is at that address, or it has no such version.
    """
    try:
        return lance.dataset(uri, version=version, storage_options=lance_options(storage))
    except (ValueError, OSError) as error:
        if "was not found" in str(error) or "not found" in str(error).lower():
            at = f" at version {version!r}" if version is not None else ""
            raise TableNotFound(f"no table at {uri}{at}; `python -m jobs embed CONFIG` makes one") from None
        raise


def create_dataset(uri: str, schema: pa.Schema, storage: StorageConfig) -> LanceDataset:
    """Create an empty dataset by a commit that has no version before it.

    Of racing `write_dataset(mode="create")` several succeed, and the last one takes the others' rows away.

    Raises:
        TableExists: Something is at that address already.
    """
    nothing = Transaction(0, LanceOperation.Overwrite(schema, []))
    try:
        return LanceDataset.commit(
            uri, nothing, storage_options=lance_options(storage), max_retries=0, enable_stable_row_ids=True
        )
    except (ValueError, OSError):
        try:
            open_dataset(uri, storage, None)
        except TableNotFound:
            pass
        else:
            raise TableExists(f"{uri} exists already; open it, or name another table") from None
        raise


def ledger(dataset: LanceDataset) -> set[int]:
    """Return the distinct shards of a table: its one record of what has landed."""
    shards: set[int] = set()
    for batch in dataset.to_batches(columns=["shard"]):
        shards.update(pc.unique(batch.column(0)).to_pylist())
    return shards


def compare_and_swap(
    dataset: LanceDataset,
    new: list[FragmentMetadata],
    stale: set[int],
    run: str,
    options: dict[str, Any] | None,
) -> LanceDataset:
    """Add fragments and remove the rows of stale shards in one commit that fails if the table moved meanwhile.

    Lance's Append would rebase silently and land a shard twice. Merge is preempted by every other change of rows, but
    may not shrink the list of fragments; so commits that remove rows are Updates, and each Update also names the oldest
    fragment that stays, unchanged, which makes any two of them conflict.

    Raises:
        CommitConflictError: Rows came, went or moved since `dataset` was opened.
    """
    fragments = dataset.get_fragments()
    operation: LanceOperation.BaseOperation
    if not stale:
        operation = LanceOperation.Merge([f.metadata for f in fragments] + new, dataset.lance_schema)
    else:
        predicate = f"shard IN ({', '.join(map(str, stale))})"
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
        operation = LanceOperation.Update(removed_fragment_ids=removed, updated_fragments=updated, new_fragments=new)
    transaction = Transaction(dataset.version, operation, transaction_properties={"lake.run": run})
    return LanceDataset.commit(dataset, transaction, storage_options=options, max_retries=0)
