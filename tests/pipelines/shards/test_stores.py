"""The store of an address, and opening a shard in it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.shards import list_again, read_blocks
from pipelines.shards.fsspec_store import FsspecStore
from pipelines.shards.local_store import LocalStore
from pipelines.shards.s3_store import S3Store
from pipelines.shards.stores import open_shard, store_of
from schemas.config import InputConfig, StorageConfig
from schemas.errors import ShardChanged, ShardNotFound, ShardUnreadable
from tests.support.shard_files import shard_at, tar_bytes


def test_the_scheme_tells_the_store() -> None:
    storage = StorageConfig(region="us-east-1")
    assert isinstance(store_of("/data/a.tar", storage), LocalStore)
    assert isinstance(store_of("s3://bucket/a.tar", storage), S3Store)
    assert isinstance(store_of("memory://a.tar", storage), FsspecStore)


@pytest.mark.parametrize("name", ["a.jsonl", "a.tar", "a.parquet", "a.jsonl.gz"])
def test_a_file_written_to_while_it_is_read_is_no_shard(tmp_path: Path, name: str) -> None:
    texts, path = [f"t{i}" for i in range(3000)], tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"txt": texts}), path)
    elif name.endswith(".tar"):
        path.write_bytes(tar_bytes((f"{i}.txt", text.encode()) for i, text in enumerate(texts)))
    else:
        lines = "".join(f'{{"txt": "{text}"}}\n' for text in texts).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    shard, whole = shard_at(path), path.read_bytes()
    blocks = read_blocks(shard, InputConfig(text="txt"))
    next(blocks)
    path.write_bytes(whole)  # the same bytes: only the time tells
    os.utime(path, ns=(1, 1))
    with pytest.raises(ShardChanged, match="has changed since it was listed"):
        list(blocks)
    assert list_again(shard).etag == "1"
    path.unlink()
    with pytest.raises(ShardNotFound, match="is gone"):
        list_again(shard)


def test_a_file_replaced_as_a_whole_while_it_is_read_gives_its_old_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"txt": "old"}\n' * 2000)
    blocks = read_blocks(shard_at(path), InputConfig(text="txt"))
    rows = next(blocks).rows.num_rows
    (tmp_path / "new").write_bytes(b'{"txt": "new"}\n')
    (tmp_path / "new").replace(path)
    rest = [block.rows["input"] for block in blocks]
    assert rows + sum(map(len, rest)) == 2000
    assert {text for texts in rest for text in texts.to_pylist()} == {"old"}


def test_a_failing_read_names_the_shard(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    shard = shard_at(tmp_path / "a.tar")
    with (
        pytest.raises(ShardUnreadable, match=r"a\.tar: reading fails: broken"),
        open_shard(shard, StorageConfig()),
    ):
        raise OSError("broken")
