"""Lance tables as a source: one shard per fragment, so that rows added later are new shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import lance
import pyarrow as pa
from lance.fragment import LanceFragment

from pipelines.shards.blocks import BLOCK_ROWS, Stretch
from pipelines.shards.columnar import pick, stretch
from pipelines.storage.s3 import lance_options
from schemas.config import InputConfig, StorageConfig
from schemas.errors import ShardNotFound, ShardUnreadable
from schemas.records import Shard


def list_fragments(uri: str, storage: StorageConfig) -> list[Shard]:
    """Return the fragments as shards `<uri>#<fragment>`; one whose rows or columns change is another shard.

    Raises:
        ShardNotFound: There is no Lance table.
    """
    return [_shard(uri, fragment) for fragment in _open(uri, storage).get_fragments()]


def kept_schema(shard: Shard, config: InputConfig, storage: StorageConfig) -> pa.Schema:
    """Return the fields of the kept columns, with the table's own types.

    Raises:
        FieldNotFound: A field that the config names is missing or cannot serve.
    """
    return pick(_fragment(shard, storage).schema, config, shard.uri).kept


def stretches(shard: Shard, config: InputConfig, storage: StorageConfig) -> Iterator[Stretch]:
    """Read a fragment in order, deleted rows left out.

    Raises:
        FieldNotFound: A field that the config names is missing or cannot serve.
        ShardUnreadable: Reading fails.
    """
    fragment = _fragment(shard, storage)
    picked = pick(fragment.schema, config, shard.uri)
    at = 0
    try:
        scanner = fragment.scanner(columns=picked.columns, batch_size=BLOCK_ROWS, batch_readahead=2)
        for batch in scanner.to_batches():
            yield stretch(batch, picked, at)
            at += len(batch)
    except (OSError, ValueError) as error:
        raise ShardUnreadable(f"{shard.uri} cannot be read from row {at} on: {error}") from error


def _open(uri: str, storage: StorageConfig) -> lance.LanceDataset:
    try:
        return lance.dataset(uri, storage_options=lance_options(storage))
    except (OSError, ValueError) as error:
        raise ShardNotFound(f"no Lance table can be opened at {uri}: {error}") from None


def _fragment(shard: Shard, storage: StorageConfig) -> LanceFragment:
    uri, _, number = shard.uri.rpartition("#")
    fragment = _open(uri, storage).get_fragment(int(number))
    if fragment is None or _shard(uri, fragment) != shard:
        raise ShardUnreadable(f"{shard.uri} has changed since it was listed; run again to list anew")
    return fragment


def _shard(uri: str, fragment: LanceFragment) -> Shard:
    metadata = fragment.metadata
    identity = str([metadata.files, metadata.deletion_file])
    size = sum(file.file_size_bytes or 0 for file in metadata.files)
    return Shard(f"{uri}#{fragment.fragment_id}", size, hashlib.sha256(identity.encode()).hexdigest()[:16], "lance")
