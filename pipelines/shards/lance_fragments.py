"""Lance tables as input: each fragment is a shard, so that rows added later are new shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import lance
import pyarrow as pa
from lance.fragment import LanceFragment

from pipelines.shards.column_choice import choose_columns, to_raw_block
from pipelines.shards.raw_blocks import BLOCK_BYTES, BLOCK_ROWS, RawBlock
from pipelines.storage.s3 import lance_access
from schemas.config import InputConfig, LimitsConfig, StorageConfig
from schemas.errors import ShardChanged, ShardNotFound, ShardUnreadable
from schemas.records import Shard


def list_fragments(uri: str, storage: StorageConfig) -> list[Shard]:
    """List the fragments as shards `<uri>#<fragment>`; a fragment whose rows or columns change is another shard.

    Raises:
        ShardNotFound: There is no Lance table.
    """
    return [_shard(uri, fragment) for fragment in _open(uri, storage).get_fragments()]


class LanceFormat:
    """Fragments of Lance tables."""

    def kept_schema(self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig) -> pa.Schema:
        """Return the kept fields, with the table's own types."""
        return choose_columns(_fragment(shard, storage).schema, config, shard.uri).kept

    def read(
        self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig
    ) -> Iterator[RawBlock]:
        """Read a fragment in order, without deleted rows."""
        fragment = _fragment(shard, storage)
        choice = choose_columns(fragment.schema, config, shard.uri)
        at = 0
        try:
            rows = min(BLOCK_ROWS, max(1, BLOCK_BYTES * fragment.metadata.physical_rows // max(1, shard.size)))
            scanner = fragment.scanner(columns=choice.columns, batch_size=rows, batch_readahead=2)
            for batch in scanner.to_batches():
                yield to_raw_block(batch, choice, at)
                at += len(batch)
        except (OSError, ValueError) as error:
            raise ShardUnreadable(f"{shard.uri} cannot be read from row {at} on: {error}") from error


def _open(uri: str, storage: StorageConfig) -> lance.LanceDataset:
    try:
        access = lance_access(uri, storage)
        return lance.dataset(None if "table_id" in access else uri, **access)
    except (OSError, ValueError) as error:
        raise ShardNotFound(f"no Lance table can be opened at {uri}: {error}") from None


def _fragment(shard: Shard, storage: StorageConfig) -> LanceFragment:
    uri, _, number = shard.uri.rpartition("#")
    fragment = _open(uri, storage).get_fragment(int(number))
    if fragment is None or _shard(uri, fragment) != shard:
        raise ShardChanged(f"{shard.uri} has changed since it was listed; run again to list it again")
    return fragment


def _shard(uri: str, fragment: LanceFragment) -> Shard:
    metadata = fragment.metadata
    identity = str([metadata.files, metadata.deletion_file])
    size = sum(file.file_size_bytes or 0 for file in metadata.files)
    return Shard(f"{uri}#{fragment.fragment_id}", size, hashlib.sha256(identity.encode()).hexdigest()[:16], "lance")
