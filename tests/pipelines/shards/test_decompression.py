"""Compressed streams: read whole, cut off, corrupt."""

from __future__ import annotations

import gzip
import io

import pytest
import zstandard

from pipelines.shards.decompression import ByteStream, Damage, decompress

PLAIN = bytes(range(256)) * 64


def read_all(stream: ByteStream) -> bytes:
    return b"".join(iter(lambda: stream.read(1000), b""))


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("a.jsonl", PLAIN),
        ("a.tar.gz", gzip.compress(PLAIN, mtime=0)),
        ("a.TGZ", gzip.compress(PLAIN[:99]) + gzip.compress(PLAIN[99:])),
        ("a.tar.zst", zstandard.ZstdCompressor().compress(PLAIN)),
    ],
)
def test_the_name_tells_the_compression(name: str, packed: bytes) -> None:
    assert read_all(decompress(io.BytesIO(packed), name)) == PLAIN


def test_a_long_window_is_read() -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=29, enable_ldm=True, write_content_size=False)
    packed = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    assert read_all(decompress(io.BytesIO(packed.compress(PLAIN) + packed.flush()), "a.zst")) == PLAIN


def test_what_precedes_a_damage_is_read() -> None:
    noise = b"".join(str(i * i).encode() for i in range(40_000))
    packed = gzip.compress(noise)
    stream = decompress(io.BytesIO(packed[: len(packed) // 2]), "a.gz")
    got = stream.read(len(noise))
    assert 0 < len(got) < len(noise)
    assert noise.startswith(got)
    with pytest.raises(Damage, match="within its compressed data") as damage:
        stream.read(1)
    assert damage.value.reason == "truncated_shard"
