"""The store of an address, and opening a shard in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.shards.fsspec_store import FsspecStore
from pipelines.shards.local_store import LocalStore
from pipelines.shards.s3_store import S3Store
from pipelines.shards.stores import open_shard, store_of
from schemas.config import StorageConfig
from schemas.errors import ShardUnreadable
from tests.support.shard_files import shard_at


def test_the_scheme_tells_the_store() -> None:
    storage = StorageConfig(region="us-east-1")
    assert isinstance(store_of("/data/a.tar", storage), LocalStore)
    assert isinstance(store_of("s3://bucket/a.tar", storage), S3Store)
    assert isinstance(store_of("memory://a.tar", storage), FsspecStore)


def test_a_failing_read_names_the_shard(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    shard = shard_at(tmp_path / "a.tar")
    with (
        pytest.raises(ShardUnreadable, match=r"a\.tar: reading fails: broken"),
        open_shard(shard, StorageConfig()),
    ):
        raise OSError("broken")
