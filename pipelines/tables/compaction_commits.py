"""The Lance commits that change no row: compaction, the removal of what deleted rows left, and of old versions.

Owns the retries while a store fails. Owns no decision about what is old (`maintenance.py`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lance import LanceDataset

from pipelines.storage.retry import retry_transient
from pipelines.tables.opening import open_dataset
from schemas.config import StorageConfig

if TYPE_CHECKING:
    from lance.lance.indices import IndexDescription

_MERGED_AT_ONCE_BYTES = 4 << 30
_Kind = Literal["BTREE", "BITMAP", "LABEL_LIST", "INVERTED", "NGRAM", "ZONEMAP", "BLOOMFILTER"]
# By Lance's name of an index over values: how it is made. All others are over vectors.
_OVER_VALUES: dict[str, _Kind] = {
    "BTree": "BTREE",
    "Bitmap": "BITMAP",
    "LabelList": "LABEL_LIST",
    "Inverted": "INVERTED",
    "NGram": "NGRAM",
    "ZoneMap": "ZONEMAP",
    "BloomFilter": "BLOOMFILTER",
}


def compact(uri: str, storage: StorageConfig) -> None:
    """Rewrite small fragments as large ones."""
    retry_transient(uri, lambda: open_dataset(uri, storage).optimize.compact_files())


def purge(uri: str, storage: StorageConfig) -> None:
    """Rewrite what holds removed rows: every index, then fragments. Older versions keep their files."""

    def rewrite() -> None:
        dataset = open_dataset(uri, storage)
        indexes = dataset.describe_indices()
        if not _holds_removed(dataset, indexes):
            return
        for index in indexes:
            _rewrite_index(dataset, index)
        dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)

    retry_transient(uri, rewrite)


def _holds_removed(dataset: LanceDataset, indexes: Sequence[IndexDescription]) -> bool:
    """Tell whether files of the newest version, or its indexes, may hold removed rows."""
    fragments = dataset.get_fragments()
    there = {fragment.fragment_id for fragment in fragments}
    # A fragment of which all rows were removed is gone without a trace but this one.
    is_left = any(set(segment.fragment_ids) - there for index in indexes for segment in index.segments)
    return is_left or any(fragment.num_deletions for fragment in fragments)


def _rewrite_index(dataset: LanceDataset, index: IndexDescription) -> None:
    """Make an index anew without removed rows. Lance merges one over values as it is; one over vectors without them."""
    kind = _OVER_VALUES.get(index.index_type)
    if kind is None and not dataset.count_rows():
        dataset.drop_index(index.name)  # Lance merges nothing where no row is left
        return
    if kind is None:
        dataset.optimize.optimize_indices(num_indices_to_merge=len(index.segments), index_names=[index.name])
        return
    own = {key: value for key, value in index.details.items() if value is not None and key != "document_granularity"}
    dataset.create_scalar_index(index.field_names[0], kind, name=index.name, replace=True, **own)


def compact_smaller(dataset: LanceDataset, rows: int) -> LanceDataset | None:
    """Merge neighbouring fragments of fewer rows than this into ones of about as many, in one thread, 4 GiB at a time.

    The run waits for it: where its fragments grow faster than they are merged here, the rest stays for `compact`.
    It is tried once, and given up if another writer changes these fragments meanwhile, or if the store fails.

    Returns:
        The new version; None if it was given up.
    """
    before = dataset.version
    with contextlib.suppress(OSError):
        dataset.optimize.compact_files(
            target_rows_per_fragment=rows,
            materialize_deletions=False,
            num_threads=1,
            max_source_bytes=_MERGED_AT_ONCE_BYTES,
        )
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
