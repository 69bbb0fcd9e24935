"""An S3 object as a file: it reads like any other, within its memory, over a bad network too."""

from __future__ import annotations

import io
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shards.s3_file import FetchRetry, ReadAhead, S3File
from pipelines.shards.s3_store import S3Store
from pipelines.shards.store_protocol import File
from pipelines.storage.s3 import s3_client
from schemas.config import StorageConfig
from schemas.errors import ShardUnreadable
from tests.support.fault_proxy import FAULTS, FaultProxy, Faults
from tests.support.s3 import REGION, S3Server, put


def stored(server: S3Server, bucket: str, data: bytes) -> File:
    """Write an object, and return it as a listing does."""
    uri = put(server, bucket, "x.tar", data)
    return S3Store(server.storage).stat([uri])[uri]


@pytest.fixture(scope="module")
def small_object(s3_server: S3Server) -> tuple[File, bytes]:
    s3_server.client().create_bucket(Bucket="small-object")
    data = random.Random(0).randbytes(4321)
    return stored(s3_server, "small-object", data), data


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(-10, 5000), st.integers(-1, 3000)), max_size=12))
def test_a_file_of_parts_reads_like_any_file(
    s3_server: S3Server, small_object: tuple[File, bytes], moves: list[tuple[int, int]]
) -> None:
    file, data = small_object
    read_ahead = ReadAhead(part_bytes=300, ahead=2, held=4)
    with S3File(s3_client(s3_server.storage), file, read_ahead) as ours, io.BytesIO(data) as plain:
        for place, size in moves:
            if place >= 0:
                assert ours.seek(place) == plain.seek(place)
            assert ours.read(size) == plain.read(size)
            assert ours.tell() == plain.tell()
        assert ours.seek(-5, io.SEEK_END) == plain.seek(-5, io.SEEK_END)
        assert ours.read() == plain.read()


def test_memory_and_threads_are_bounded(s3_server: S3Server, bucket: str) -> None:
    data = random.Random(0).randbytes(8 << 20)
    file = stored(s3_server, bucket, data)
    before = threading.active_count()
    with S3File(s3_client(s3_server.storage), file, ReadAhead(part_bytes=64 << 10, ahead=4, held=6)) as opened:
        got = b""
        while piece := opened.read(100_000):
            got += piece
            assert len(opened._parts) <= 6
            assert threading.active_count() - before <= 4 + 1
    assert got == data


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_network_changes_nothing(s3_server: S3Server, bucket: str, fault: str) -> None:
    data = random.Random(1).randbytes(3 << 19)
    file = stored(s3_server, bucket, data)
    faults = Faults(rate=0.4, kinds=(fault,), seed=2, stall_s=5, slow_bytes_per_s=10_000)
    with FaultProxy(s3_server.endpoint, faults) as proxy:
        client = s3_client(StorageConfig(endpoint=proxy.endpoint, region=REGION), read_timeout_s=1.0)
        read_ahead, retry = ReadAhead(part_bytes=256 << 10, ahead=4, held=6), FetchRetry(20, 0.01, slow_after_s=1.0)
        with S3File(client, file, read_ahead, retry) as opened:
            assert opened.read() == data
        assert proxy.counts[fault] > 0


def test_a_network_that_never_recovers_is_an_error(s3_server: S3Server, bucket: str) -> None:
    file = stored(s3_server, bucket, b"x" * 1000)
    with FaultProxy(s3_server.endpoint, Faults(rate=1, kinds=("error_503", "reset_request"))) as proxy:
        client = s3_client(StorageConfig(endpoint=proxy.endpoint, region=REGION), tries=1)
        with (
            S3File(client, file, ReadAhead(1 << 20, 1, 1), FetchRetry(first_pause_s=0.01)) as opened,
            pytest.raises(ShardUnreadable, match="S3 keeps failing"),
        ):
            opened.read()
