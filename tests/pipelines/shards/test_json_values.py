"""JSON is read as Python reads it, and a value that is kept loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shards.decompression import Damage
from pipelines.shards.json_values import as_text, parse_json
from schemas.config import InputConfig
from tests.support.shard_files import read, tar_bytes

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_every_value_is_kept_as_json_of_the_same_value(value: Any, is_marked: bool) -> None:
    data = json.dumps({"a": value}).encode()
    text = as_text(parse_json(b"\xef\xbb\xbf" * is_marked + data)["a"])
    assert text == value if isinstance(value, str | None) else json.loads(text or "") == value


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"NaN", None),
        (b"-Infinity", None),
        (b"[NaN, 1]", "[null,1]"),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"[123456789012345678901234567890]", "[123456789012345678901234567890]"),
        (b"3.14159265358979323846264338", "3.14159265358979323846264338"),
        (b"1e400", "1e400"),
        (b"1.10", "1.10"),
        (b"1E+3", "1E+3"),
        (b"-0.0", "-0.0"),
        (b"[1e400, 0.10, 1.2345678901234567890123]", "[1e400,0.10,1.2345678901234567890123]"),
        (b'{"b": 0.10, "\\u0061": 1}', '{"b":0.1,"a":1}'),
        (b"[" * 300 + b"]" * 300, "[" * 300 + "]" * 300),
    ],
)
def test_what_other_tools_write_is_read(data: bytes, text: str | None) -> None:
    assert as_text(parse_json(b'{"a": %s}' % data, ["a"])["a"]) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 5000 + b"]" * 5000, "bad_json"),
        (b"1" * 5000, "bad_json"),
        (b'"\\ud800"', "bad_json"),
        (b'"\xff"', "bad_utf8"),
        (b"[1,]", "bad_json"),
    ],
)
def test_what_is_not_json_is_damage(data: bytes, reason: str) -> None:
    with pytest.raises(Damage) as damage:
        as_text(parse_json(b'{"a": %s}' % data)["a"])
    assert damage.value.reason == reason


def test_a_json_member_that_is_needed_and_cannot_be_read_is_a_reject(tmp_path: Path) -> None:
    members = [
        ("1.txt", b"one"),
        ("1.json", b'{"c": "a", "punsafe": NaN}'),
        ("2.txt", b"two"),
        ("2.json", b'{"c": "\xff"}'),
        ("3.txt", b"three"),
        ("3.json", b"[1]"),
        ("4.txt", b"four"),
        ("5.txt", b"five"),
        ("5.json", b'\xef\xbb\xbf{"c": "b"}'),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    got = read(tmp_path / "a.tar", InputConfig(text="txt", keep=("c",)))
    assert [(row["id"], row["c"]) for row in got.rows] == [("1", "a"), ("4", None), ("5", "b")]
    assert got.reasons == {"2": "bad_json", "3": "bad_json"}
    assert len(read(tmp_path / "a.tar", InputConfig(text="txt")).rows) == 5
