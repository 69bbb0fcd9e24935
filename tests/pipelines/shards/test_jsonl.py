"""JSON lines: whole, bad, compressed and endless ones."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard

from pipelines.shards import shard_schema
from schemas.config import InputConfig, LimitsConfig
from schemas.errors import FieldNotFound
from tests.support.shard_files import read, shard_at

TEXT = InputConfig(text="text", id="id", keep=("meta",))


def write(folder: Path, lines: list[object], name: str = "a.jsonl") -> Path:
    path = folder / name
    text = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(text + b"\n")
    return path


def test_lines_are_samples(tmp_path: Path) -> None:
    lines = [{"id": 1, "text": "one", "meta": {"a": [1, None]}}, {"id": "2", "text": "zwei ü", "meta": "as it is"}]
    got = read(write(tmp_path, lines), TEXT)
    assert got.rows == [
        {"id": "1", "position": 0, "input": "one", "meta": '{"a":[1,null]}'},
        {"id": "2", "position": 1, "input": "zwei ü", "meta": "as it is"},
    ]
    assert shard_schema(shard_at(tmp_path / "a.jsonl"), TEXT) == pa.schema([("meta", pa.string())])


def test_bad_lines_do_not_harm_their_neighbours(tmp_path: Path) -> None:
    good = {"id": "g", "text": "good", "meta": 1}
    lines = [good, b"", b"{no", b"[1]", b'{"id":"u","text":"\xff"}', {"id": "n", "text": 5}, {"id": "e", "text": ""}]
    lines += [{"text": "no id"}, {"id": "x", "text": "x" * 500}, {"id": "m"}, good | {"id": "h"}, good]
    got = read(write(tmp_path, lines), TEXT, LimitsConfig(max_sample_bytes=200))
    assert [row["position"] for row in got.rows] == [0, 10]
    assert [(reject.position, reject.key, reject.reason) for reject in got.rejects] == [
        (2, "", "bad_json"),
        (3, "", "bad_json"),
        (4, "", "bad_utf8"),
        (5, "n", "not_text"),
        (6, "e", "empty_text"),
        (7, "", "missing_id"),
        (8, "", "too_large"),
        (9, "m", "missing_field"),
        (11, "g", "duplicate_id"),
    ]


def test_an_endless_line_is_not_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "first"}\n{"text": "')
        for _ in range(40):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "last"}')
    got = read(path, InputConfig(text="text"), LimitsConfig(max_sample_bytes=2_000_000))
    assert [row["input"] for row in got.rows] == ["first", "last"]
    assert [(reject.position, reject.reason) for reject in got.rejects] == [(1, "too_large")]


def test_marks_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}')
    assert [(row["position"], row["input"]) for row in read(path, InputConfig(text="text")).rows] == [
        (0, "a"),
        (2, "b"),
    ]


@pytest.mark.parametrize(
    ("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.json.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)]
)
def test_compressed_whole_cut_and_flipped(tmp_path: Path, name: str, pack: object) -> None:
    lines = [{"id": str(i), "text": f"text {i * 7919}", "meta": i} for i in range(5000)]
    path = write(tmp_path, lines, name)
    whole = pack(path.read_bytes())  # type: ignore[operator]
    path.write_bytes(whole + whole)
    assert len(read(path, InputConfig(text="text")).rows) == 10_000
    path.write_bytes(whole[: len(whole) * 2 // 3])
    got = read(path, TEXT)
    assert list(got.inputs) == [str(i) for i in range(len(got.rows))]
    assert len(got.rows) > 2000
    assert [reject.reason for reject in got.rejects] == ["truncated_shard"]
    assert got.rejects[0].position == len(got.rows)
    flipped = bytearray(whole)
    flipped[-6] ^= 1
    path.write_bytes(flipped)
    if name.endswith("gz"):
        got = read(path, TEXT)
        assert [reject.reason for reject in got.rejects][-1:] == ["corrupt_shard"]


def test_images_in_base64(tmp_path: Path) -> None:
    data = base64.b64encode(b"\x89PNG").decode()
    lines = [{"image": data}, {"image": f"data:image/png;base64,{data}"}, {"image": "not base64!"}, {"image": 3}, {}]
    got = read(write(tmp_path, lines), InputConfig(image="image"))
    assert [row["input"] for row in got.rows] == [b"\x89PNG", b"\x89PNG"]
    assert [reject.reason for reject in got.rejects] == ["not_base64", "not_base64", "missing_field"]


def test_vectors_as_lists(tmp_path: Path) -> None:
    lines = [{"v": [1, 2.5]}, {"v": "1,2"}, {"v": [1, "2"]}, {"v": None}]
    got = read(write(tmp_path, lines), InputConfig(vector="v"))
    assert [row["input"] for row in got.rows] == [[1.0, 2.5]]
    assert [reject.reason for reject in got.rejects] == ["not_vector", "not_vector", "missing_field"]


def test_missing_fields_are_refused(tmp_path: Path) -> None:
    shard = shard_at(write(tmp_path, [{"id": 1, "text": "t"}]))
    with pytest.raises(FieldNotFound, match="no field 'txt'; did you mean 'text'"):
        shard_schema(shard, InputConfig(text="txt"))
    with pytest.raises(FieldNotFound, match="no field 'meta'"):
        shard_schema(shard, TEXT)


def test_a_line_that_cannot_be_read_is_named_as_it_would_have_been(tmp_path: Path) -> None:
    path = write(tmp_path, [{"text": "good"}, b'{"text": "oo', {"text": 5}])
    got = read(path, InputConfig(text="text"))
    ids = {f"{shard_at(path).id}-{place}" for place in (1, 2)}
    assert {reject.key for reject in got.rejects} == ids
    assert next(r for r in got.rejects if r.position == 1).message.endswith("at column 10")  # of its own line
