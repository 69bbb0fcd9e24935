"""The Lance commits that change no row: compaction, the removal of what deleted rows left, and of old versions.

Owns the retries while a store fails. Owns no decision about what is old (`maintenance.py`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Any

from lance import LanceDataset

from pipelines.storage.retry import retry_transient
from pipelines.tables.opening import open_dataset
from schemas.config import StorageConfig


def compact(uri: str, storage: StorageConfig) -> None:
    """Rewrite small fragments as large ones."""
    retry_transient(uri, lambda: open_dataset(uri, storage).optimize.compact_files())


def purge(uri: str, storage: StorageConfig) -> None:
    """Rewrite what holds removed rows: the segments of every index, then fragments. Older versions keep their files."""

    def rewrite() -> None:
        dataset = open_dataset(uri, storage)
        if not any(fragment.num_deletions for fragment in dataset.get_fragments()):
            return
        for index in dataset.describe_indices():
            dataset.optimize.optimize_indices(num_indices_to_merge=len(index.segments), index_names=[index.name])
        dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)

    retry_transient(uri, rewrite)


def compact_smaller(dataset: LanceDataset, rows: int) -> LanceDataset | None:
    """Merge neighbouring fragments of fewer rows than this into ones of about as many, in one thread.

    It is tried once, and given up if another writer changes these fragments meanwhile, or if the store fails.

    Returns:
        The new version; None if it was given up.
    """
    before = dataset.version
    with contextlib.suppress(OSError):
        dataset.optimize.compact_files(target_rows_per_fragment=rows, materialize_deletions=False, num_threads=1)
        return dataset if dataset.version > before else None
    return None


def expire_versions(uri: str, older_than: dt.timedelta, storage: StorageConfig, keep: int = 0) -> int:
    """Delete untagged versions older than this, with the files that only they need; return the bytes freed.

    Args:
        uri: Address of the dataset.
        older_than: Younger versions stay, by this machine's clock.
        storage: Where S3 is.
        keep: So many of the newest versions stay, whatever their age.
    """
    dataset = open_dataset(uri, storage)
    which: dict[str, Any] = {"older_than": older_than}
    if keep:
        before = dt.datetime.now(dt.UTC) - older_than
        made: list[Any] = [*dataset.versions()[:-keep]]
        old = [each["version"] for each in made if each["timestamp"].astimezone(dt.UTC) < before]
        if not old:
            return 0
        which = {"versions": old}
    stats = retry_transient(uri, lambda: dataset.cleanup_old_versions(**which, error_if_tagged_old_versions=False))
    return int(stats.bytes_removed)
