"""S3 as a store of shards: patterns, look-ups, objects that changed, credentials."""

from __future__ import annotations

import io
import re
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.shards import list_shards, read_blocks, shard_schema
from schemas.config import InputConfig, StorageConfig
from schemas.errors import ConfigError, ShardNotFound, ShardUnreadable
from tests.support.s3 import S3Server, put
from tests.support.shard_files import read, shard_at, tar_bytes, text_members

TEXT = InputConfig(text="txt", keep=("n",))


def test_patterns(s3_server: S3Server, bucket: str) -> None:
    for key in ("d/x-1.tar", "d/x-10.tar", "d/x-2.tar", "d/sub/y.parquet", "d/README", "d2/z.tar"):
        put(s3_server, bucket, key, key.encode())
    put(s3_server, bucket, "list.txt", f"s3://{bucket}/d2/z.tar\ns3://{bucket}/d/x-1.tar\n".encode())

    def names(pattern: str) -> list[str]:
        shards = list_shards([pattern.replace("~", f"s3://{bucket}")], storage=s3_server.storage)
        return [shard.uri.removeprefix(f"s3://{bucket}/") for shard in shards]

    folder = ["d/sub/y.parquet", "d/x-1.tar", "d/x-2.tar", "d/x-10.tar"]
    assert names("~/d") == names("~/d/") == folder
    assert names("~/d/*.tar") == folder[1:]
    assert names("~/**/*.parquet") == folder[:1]
    assert names("~/d/s*") == folder[:1]
    assert names("~/d*/*.tar") == [*folder[1:], "d2/z.tar"]
    assert names("~/d/x-{1..2}.tar") == folder[1:3]
    assert names("~/d/x-") == folder[1:]
    assert names("@~/list.txt") == ["d/x-1.tar", "d2/z.tar"]
    for key in ("d/_tmp/x-1.tar", "d/.x.tar", "_e/x-3.tar", "f//g.tar", "f/[1]{2}.tar"):
        put(s3_server, bucket, key, key.encode())
    assert names("~/d") == names("~/d/**") == names("~/[d]/") == folder
    assert names("~/_e") == names("~/_*") == ["_e/x-3.tar"]
    assert names("~/f/[1]{2}.tar") == ["f/[1]{2}.tar"]
    with pytest.raises(ShardNotFound, match=r"xx-1\.tar is not there; did you mean 'x-1\.tar'"):
        names("~/d/xx-1.tar")
    with pytest.raises(ShardNotFound, match="NoSuchBucket"):
        names("s3://no-such-bucket-here/x.tar")


def test_many_objects_are_looked_up_in_pages(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    with ThreadPool(8) as pool:
        pool.map(lambda i: client.put_object(Bucket=bucket, Key=f"p/{i:05d}.tar", Body=b"x"), range(1, 1101))
    assert len(list_shards([f"s3://{bucket}/p/{{00001..01100}}.tar"], storage=s3_server.storage)) == 1100
    with pytest.raises(ShardNotFound, match=r"2 of .* are not there, the first is .*/01101\.tar"):
        list_shards([f"s3://{bucket}/p/{{00001..01102}}.tar"], storage=s3_server.storage)
    for name, near in {
        "p/0109O.tar": r"did you mean '0109\d\.tar'",
        "pp/00001.tar": "there is no .*/pp; did you mean 'p'",
    }.items():
        with pytest.raises(ShardNotFound, match=near):
            list_shards([f"s3://{bucket}/{name}"], storage=s3_server.storage)
    with pytest.raises(ShardNotFound, match=rf"did you mean 's3://{bucket}/\*\*/\*\.tar'"):
        list_shards([f"s3://{bucket}/*.tar"], storage=s3_server.storage)


def test_shards_read_as_they_do_locally(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    archive = tar_bytes(text_members([str(i) for i in range(2000)]))
    file = io.BytesIO()
    pq.write_table(pa.table({"txt": [f"t{i}" for i in range(5000)], "n": range(5000)}), file, row_group_size=1500)
    for name, data in (("a.tar", archive), ("b.parquet", file.getvalue())):
        (tmp_path / name).write_bytes(data)
        remote = shard_at(put(s3_server, bucket, name, data), s3_server.storage)
        there, here = read(remote, TEXT, storage=s3_server.storage), read(tmp_path / name, TEXT)
        assert [row["input"] for row in there.rows] == [row["input"] for row in here.rows]
        assert shard_schema(remote, TEXT, s3_server.storage) == shard_schema(shard_at(tmp_path / name), TEXT)


def test_an_object_that_changed_or_is_gone_is_refused(s3_server: S3Server, bucket: str) -> None:
    uri = put(s3_server, bucket, "a.tar", tar_bytes(text_members(["1"])))
    shard = shard_at(uri, s3_server.storage)
    put(s3_server, bucket, "a.tar", tar_bytes(text_members(["2"])))
    with pytest.raises(ShardUnreadable, match="has changed since it was listed"):
        next(read_blocks(shard, TEXT, storage=s3_server.storage))
    s3_server.client().delete_object(Bucket=bucket, Key="a.tar")
    with pytest.raises(ShardNotFound, match="is gone since it was listed"):
        next(read_blocks(shard, TEXT, storage=s3_server.storage))


def test_credentials(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = put(s3_server, bucket, "a.tar", b"x")
    with pytest.raises(ConfigError, match=r"storage\.profile.*nobody"):
        list_shards([uri], storage=StorageConfig(endpoint=s3_server.endpoint, profile="nobody"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ShardUnreadable, match="refuses access to these credentials"):
        list_shards([uri], storage=StorageConfig(endpoint=s3_server.endpoint, region="eu-north-1"))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("S3://b/a.tar", "S3://b/a.tar: an address of S3 begins with s3://, not with S3://"),
        ("s3a://b/a.tar", "begins with s3://, not with s3a://"),
        ("s3://a b!/a.tar", "names no bucket that S3 allows: write s3://BUCKET/KEY"),
        ("s3:///a.tar", "names no bucket"),
    ],
)
def test_an_address_that_is_none_is_said(s3_server: S3Server, pattern: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        list_shards([pattern], storage=s3_server.storage)
