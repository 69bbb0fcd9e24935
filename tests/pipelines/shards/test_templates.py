"""Texts made of several fields: the same rows and rejects from every format."""

from __future__ import annotations

import json
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.shards import shard_schema
from pipelines.shards.block_checks import BlockChecker
from pipelines.shards.raw_blocks import RawBlock
from schemas.config import InputConfig, LimitsConfig
from schemas.errors import FieldNotFound
from schemas.records import Shard
from tests.support.shard_files import ReadShard, read, shard_at, tar_bytes

SAMPLES: list[dict[str, str | int | None]] = [
    {"key": "a", "title": "Élan 😀", "body": "one {not a field}", "year": 1999},
    {"key": "b", "title": None, "body": "no title", "year": 2},
    {"key": "c", "title": "no year", "body": "three", "year": None},
    {"key": "d", "title": None, "body": None, "year": None},
    {"key": "e", "title": "", "body": "empty title", "year": 4},
]
CONFIG = InputConfig(id="key", text="{{{title}}}\n\n{body} {title} ({year?})", keep=("title as head", "year"))


def _write(samples: list[dict[str, str | int | None]], folder: Path) -> dict[str, Path]:
    lines = [json.dumps({name: value for name, value in one.items() if value is not None}) for one in samples]
    (folder / "x.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.Table.from_pylist(samples), folder / "x.parquet")
    lance.write_dataset(pa.Table.from_pylist(samples), folder / "x.lance")
    files = [(f"{one['key']}.{name}", str(v).encode()) for one in samples for name, v in one.items() if v is not None]
    (folder / "members.tar").write_bytes(tar_bytes(files))
    (folder / "json.tar").write_bytes(
        tar_bytes((f"{one['key']}.json", line.encode()) for one, line in zip(samples, lines, strict=True))
    )
    return {name: folder / name for name in ("x.jsonl", "x.parquet", "x.lance", "members.tar", "json.tar")}


def test_every_format_fills_a_template_alike_and_a_missing_field_is_a_reject_by_its_name(tmp_path: Path) -> None:
    for name, path in _write(SAMPLES, tmp_path).items():
        found: ReadShard = read(path, CONFIG)
        assert found.inputs == {
            "a": "{Élan 😀}\n\none {not a field} Élan 😀 (1999)",
            "c": "{no year}\n\nthree no year ()",
            "e": "{}\n\nempty title  (4)",
        }, name
        assert [(r.key, r.reason, r.message) for r in found.rejects] == [
            ("b", "missing_field", "has no title"),
            ("d", "missing_field", "has no title and no body"),
        ], name
        assert found.rows[0].keys() == {"id", "position", "input", "head", "year"}
        assert [row["head"] for row in found.rows] == ["Élan 😀", "no year", ""]


def test_a_sample_without_any_field_is_a_reject_and_a_name_is_what_stands_in_the_braces(tmp_path: Path) -> None:
    samples = [{"key": "a", "title": "x"}, {"key": "b", "body": "y"}, {"key": "c", "title": None}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, samples)))
    found = read(tmp_path / "x.jsonl", InputConfig(id="key", text="Title: { title ?} {body?}"))
    assert found.inputs == {"a": "Title: x ", "b": "Title:  y"}
    assert [(r.key, r.reason, r.message) for r in found.rejects] == [("c", "missing_field", "has no title and no body")]
    pq.write_table(pa.table({"known as": ["a"], "n": [1]}), tmp_path / "x.parquet")
    assert [*read(tmp_path / "x.parquet", InputConfig(text="{known as} { n }")).inputs.values()] == ["a 1"]


def test_a_field_that_no_shard_has_or_that_is_no_text_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for path in _write(SAMPLES, tmp_path).values():
        with pytest.raises(FieldNotFound, match=r"has no field 'titel'; did you mean 'title'\?"):
            shard_schema(shard_at(path), InputConfig(text="{body}{titel?}"))
    pq.write_table(pa.table({"text": ["a"], "tags": [["b"]]}), tmp_path / "lists.parquet")
    with pytest.raises(FieldNotFound, match=r"field 'tags' is list<.*>, which input.text cannot put"):
        shard_schema(shard_at(tmp_path / "lists.parquet"), InputConfig(text="{text} {tags}"))


def test_the_text_as_made_is_what_the_limits_are_about() -> None:
    config, shard = InputConfig(text="{a}{b?}"), Shard("/a.parquet", 1, "1", "parquet")
    checker = BlockChecker(shard, config, LimitsConfig(max_sample_bytes=6), pa.schema([]))
    kept = {"\0a": pa.array([b"abcd", b" ", b"\xff", b"abc"]), "\0b": pa.array([b"efg", None, b"", b"def"])}
    (block,) = checker.check(RawBlock(pa.array(np.arange(4)), None, pa.nulls(4, pa.string()), kept))
    assert block.rows["input"].to_pylist() == ["abcdef"]
    assert [(r.position, r.reason) for r in block.rejects] == [(0, "too_large"), (1, "empty_text"), (2, "bad_utf8")]
    assert block.rejects[2].message == "a is not valid UTF-8"


def test_json_numbers_keep_their_digits_and_other_values_are_written_as_json(tmp_path: Path) -> None:
    line = b'{"key": "a", "price": 0.10, "tags": ["x", 1], "new": true}'
    (tmp_path / "x.jsonl").write_bytes(line)
    (tmp_path / "x.tar").write_bytes(tar_bytes([("a.json", line)]))
    for name in ("x.jsonl", "x.tar"):
        config = InputConfig(id="key", text="{price} {tags} {new}")
        assert read(tmp_path / name, config).inputs == {"a": '0.10 ["x",1] true'}
