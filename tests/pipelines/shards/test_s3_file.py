from __future__ import annotations

import io
import random
import threading
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shards import list_shards, read_blocks, s3_file, shard_schema
from pipelines.shards.s3_store import S3Store
from schemas.config import InputConfig, StorageConfig
from schemas.errors import ConfigError, ShardNotFound, ShardUnreadable
from tests.support.fault_proxy import FAULTS, FaultProxy, Faults
from tests.support.s3 import REGION, S3Server
from tests.support.shard_files import read, shard_at, tar_bytes, text_members

TEXT = InputConfig(text="txt", keep=("n",))


def put(server: S3Server, bucket: str, key: str, data: bytes) -> str:
    server.client().put_object(Bucket=bucket, Key=key, Body=data)
    return f"s3://{bucket}/{key}"


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


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(-10, 5000), st.integers(-1, 3000)), max_size=12))
def test_a_file_of_parts_reads_like_any_file(
    s3_server: S3Server, small_object: tuple[str, bytes], moves: list[tuple[int, int]]
) -> None:
    uri, data = small_object
    store = S3Store(s3_server.storage)
    with store.open(store.stat([uri])[uri]) as ours, io.BytesIO(data) as plain:
        ours._read_ahead = s3_file.ReadAhead(part_bytes=300, ahead=2, held=4)  # type: ignore[attr-defined]
        for place, size in moves:
            if place >= 0:
                assert ours.seek(place) == plain.seek(place)
            assert ours.read(size) == plain.read(size)
            assert ours.tell() == plain.tell()
        assert ours.seek(-5, io.SEEK_END) == plain.seek(-5, io.SEEK_END)
        assert ours.read() == plain.read()


@pytest.fixture(scope="module")
def small_object(s3_server: S3Server) -> tuple[str, bytes]:
    s3_server.client().create_bucket(Bucket="small-object")
    data = random.Random(0).randbytes(4321)
    return put(s3_server, "small-object", "x.tar", data), data


def test_memory_and_threads_are_bounded(s3_server: S3Server, bucket: str) -> None:
    data = random.Random(0).randbytes(8 << 20)
    uri = put(s3_server, bucket, "x.tar", data)
    store = S3Store(s3_server.storage)
    before = threading.active_count()
    with store.open(store.stat([uri])[uri]) as file:
        file._read_ahead = s3_file.ReadAhead(part_bytes=64 << 10, ahead=4, held=6)  # type: ignore[attr-defined]
        got = b""
        while piece := file.read(100_000):
            got += piece
            assert len(file._parts) <= 6  # type: ignore[attr-defined]
            assert threading.active_count() - before <= s3_file.FORWARD.ahead + 1
    assert got == data


def test_an_object_that_changed_or_went(s3_server: S3Server, bucket: str) -> None:
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


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_network_changes_nothing(
    s3_server: S3Server, bucket: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(1).randbytes(3 << 20)
    uri = put(s3_server, bucket, "x.tar", data)
    monkeypatch.setattr("pipelines.storage.s3._READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr(s3_file, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(s3_file, "_SLOW_AFTER_S", 0.5)
    with FaultProxy(
        s3_server.endpoint, Faults(rate=0.4, kinds=(fault,), seed=2, stall_s=5, slow_bytes_per_s=10_000)
    ) as proxy:
        storage = StorageConfig(endpoint=proxy.endpoint, region=REGION)
        store = S3Store(storage)
        with store.open(store.stat([uri])[uri]) as file:
            file._read_ahead = s3_file.ReadAhead(part_bytes=256 << 10, ahead=4, held=6)  # type: ignore[attr-defined]
            assert file.read() == data
        assert proxy.counts[fault] > 0


def test_a_network_that_never_recovers_is_an_error(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(s3_server, bucket, "x.tar", b"x" * 1000)
    monkeypatch.setattr(s3_file, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("pipelines.storage.s3._TRIES", 1)
    with FaultProxy(s3_server.endpoint, Faults(rate=0)) as proxy:
        storage = StorageConfig(endpoint=proxy.endpoint, region=REGION)
        shard = shard_at(uri, storage)
        proxy.faults = Faults(rate=1, kinds=("error_503", "reset_request"))
        with pytest.raises(ShardUnreadable, match="S3 keeps failing"):
            next(read_blocks(shard, TEXT, storage=storage))
