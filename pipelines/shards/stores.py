"""The store of an address, and opening a shard in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import BinaryIO

from pipelines.shards.fsspec_store import READ_ERRORS, FsspecStore, unreadable
from pipelines.shards.local_store import LocalStore
from pipelines.shards.s3_store import S3Store
from pipelines.shards.store_protocol import File, Store
from pipelines.storage.addresses import local_path
from schemas.config import StorageConfig
from schemas.errors import ConfigError
from schemas.records import Shard

# As Hadoop writes it, or in capitals.
_S3_OTHERWISE = re.compile("(?!s3://)(?i:s3[an]?)://")


def store_of(uri: str, storage: StorageConfig) -> Store:
    """Return the store of an address; `file://` is the local disk.

    Raises:
        ConfigError: The profile of the storage settings does not exist, or the address of S3 is in another spelling.
        DependencyMissing: A library that this kind of address needs is not installed.
    """
    if local_path(uri) is not None:
        return LocalStore()
    if found := _S3_OTHERWISE.match(uri):
        raise ConfigError(f"{uri}: an address of S3 begins with s3://, not with {found[0]}")
    return S3Store(storage) if uri.startswith("s3://") else FsspecStore(uri)


@contextmanager
def open_shard(shard: Shard, storage: StorageConfig, *, is_forward: bool = True) -> Iterator[BinaryIO]:
    """Open a shard's bytes for reading, seekable.

    Args:
        shard: The shard.
        storage: Settings of S3.
        is_forward: Whether it is read from start to end; then larger parts are fetched, further ahead.

    Raises:
        ShardNotFound: It is gone.
        ShardUnreadable: It cannot be opened, or reading it fails.
        ShardChanged: It has changed since it was listed, or was written to while it was read.
    """
    store, listed = store_of(shard.uri, storage), File(shard.uri, shard.size, shard.etag)
    with closing(store.open(listed, is_forward=is_forward)) as file:
        try:
            yield file
            store.check_unchanged(listed, file)
        except READ_ERRORS as error:
            raise unreadable(shard.uri, error) from error
