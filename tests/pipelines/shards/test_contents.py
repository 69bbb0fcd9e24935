"""Files whose content is another than their name says: the reason of the reject is the true one."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipelines.shards.contents import foreign
from schemas.config import InputConfig
from schemas.errors import ShardUnreadable
from tests.support.shard_files import read, tar_bytes, text_members

TEXT = InputConfig(text="txt")
TAR, LINES = tar_bytes(text_members(["1"])), b'{"txt": "x"}\n'
PAGE = b"\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"
ANSWER = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.tar", gzip.compress(TAR, mtime=0), "is gzip data, not a tar archive; its name must end in .gz"),
        ("a.tar", zstandard.compress(TAR), "is zstd data, not a tar archive; its name must end in .zst"),
        ("a.tar", bz2.compress(TAR), "is bzip2 data, not a tar archive"),
        ("a.tar", PAGE, "is an HTML page, not a tar archive"),
        ("a.tar", b"PK\x03\x04" + bytes(2_000), "is a zip file, not a tar archive"),
        ("a.tar.gz", TAR, "is a tar archive, not gzip data; name it .tar"),
        ("a.tar.gz", zstandard.compress(TAR), "is zstd data, not gzip data; its name must end in .zst"),
        ("a.tar.gz", ANSWER, "is an XML document, not gzip data"),
        ("a.tar.gz", gzip.compress(PAGE, mtime=0), "is an HTML page, not a tar archive"),
        ("a.tar.zst", gzip.compress(TAR, mtime=0), "is gzip data, not zstd data"),
        ("a.jsonl", gzip.compress(LINES, mtime=0), "is gzip data, not JSON lines"),
        ("a.jsonl", ANSWER, "is an XML document, not JSON lines"),
        ("a.jsonl", TAR, "is a tar archive, not JSON lines; name it .tar"),
        ("a.jsonl", '{"txt": "x"}\n'.encode("utf-16"), "is text in UTF-16, not JSON lines"),
        ("a.jsonl.gz", LINES, "has damaged compressed data"),
    ],
)
def test_one_reject_says_what_the_file_is(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    got = read(tmp_path / name, TEXT, kept_schema=pa.schema([]))
    assert (got.rows, len(got.rejects)) == ([], 1)
    assert got.rejects[0].reason == "corrupt_shard"
    assert got.rejects[0].message.removeprefix("the shard ").startswith(said)


def test_what_is_no_parquet_is_said(tmp_path: Path) -> None:
    for data, said in ((PAGE, "is an HTML page, not a Parquet file"), (LINES, "is not a whole Parquet file")):
        (tmp_path / "a.parquet").write_bytes(data)
        with pytest.raises(ShardUnreadable, match=said):
            read(tmp_path / "a.parquet", TEXT)
    pq.write_table(pa.table({"txt": ["x"]}), tmp_path / "a.jsonl")
    assert "is a Parquet file" in read(tmp_path / "a.jsonl", TEXT, kept_schema=pa.schema([])).rejects[0].message


def test_what_is_as_it_should_be_is_not_foreign(tmp_path: Path) -> None:
    for data, expected in ((TAR, "a tar archive"), (LINES, "JSON lines"), (gzip.compress(b""), "gzip data")):
        assert foreign(data, expected) == ""
    (tmp_path / "a.tar").write_bytes(tar_bytes([("<html.txt", b"x"), ("PK\x03\x04.txt", b"y")]))
    assert len(read(tmp_path / "a.tar", TEXT).rows) == 2


def test_the_byte_order_mark_of_a_text_is_no_part_of_it(tmp_path: Path) -> None:
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}".encode()
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.txt", mark + b"x"), ("1.cls", mark + b"7"), ("1.bin", mark)]))
    (row,) = read(tmp_path / "a.tar", InputConfig(text="txt", keep=("cls", "bin"))).rows
    assert (row["input"], row["cls"], row["bin"]) == ("x", "7", mark)
