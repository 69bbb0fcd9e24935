"""A stored format is numbered: older ones are upgraded, newer and malformed ones are refused with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError, InputError, LakeError, TableError
from schemas.stored import Format, Stored


class First(Stored):
    stored_as: ClassVar[Format] = Format("the note", remedy="write another")

    words: str
    count: int = 1


class Third(Stored):
    """The same record two releases later: `words` has become `text`, and then a list."""

    stored_as: ClassVar[Format] = Format("the note", ("0.1", "0.4", "2.0"), remedy="write another")

    texts: tuple[str, ...]

    @classmethod
    def upgrade(cls, record: dict[str, Any], number: int) -> dict[str, Any]:
        return {"text": record["words"]} if number == 1 else {"texts": [record["text"]]}


class Numbered(Stored):
    stored_as: ClassVar[Format] = Format("the file", error=ConfigError, is_numbered_from_first=True)

    x: int


def test_the_first_format_is_written_without_a_number() -> None:
    assert First(words="a").to_json() == '{"words":"a","count":1}'
    assert First.from_json('{"words": "a"}', "t") == First(words="a")
    assert First.from_json('{"words": "a", "format": 1}', "t") == First(words="a")


@pytest.mark.parametrize("indent", [None, 2])
def test_later_formats_and_some_files_are_numbered(indent: int | None) -> None:
    text = Third(texts=("é",)).to_json(indent)
    assert list(json.loads(text).items()) == [("format", 3), ("release", "2.0"), ("texts", ["é"])]
    assert ("\n" in text) == (indent is not None)
    assert Third.from_json(text, "t") == Third(texts=("é",))
    assert list(json.loads(Numbered(x=1).to_json(indent)).items()) == [("format", 1), ("x", 1)]


def test_older_formats_are_upgraded_step_by_step() -> None:
    assert Third.from_json('{"words": "a"}', "t") == Third(texts=("a",))
    assert Third.from_json('{"format": 2, "release": "0.4", "text": "a"}', "t") == Third(texts=("a",))


def test_a_newer_format_is_refused_with_the_release_that_reads_it() -> None:
    with pytest.raises(
        TableError, match=r"t: the note has format 3 and needs matryoshka-lake 2\.0 or newer.*pip install"
    ):
        First.from_json(Third(texts=()).to_json(), "t")
    with pytest.raises(ConfigError, match="needs a newer matryoshka-lake"):
        Numbered.from_json('{"format": 9}', "t")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "must be a JSON object, not list"),
        ("{}", "words: Field required"),
        ('{"words": 1}', "words: "),
        ('{"words": "a", "colour": 2}', "colour: unknown key"),
        ('{"words": "a", "format": "2"}', "malformed format number '2'"),
        ('{"words": "a", "format": true}', "malformed format number True"),
        ('{"words": "a", "format": 0}', "malformed format number 0"),
    ],
)
def test_what_is_malformed_is_named_with_the_remedy(text: str | bytes, said: str) -> None:
    with pytest.raises(TableError, match="t: the note ") as error:
        First.from_json(text, "t")
    assert said in str(error.value)
    assert str(error.value).endswith("; write another")


@given(st.one_of(st.binary(), st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_nothing_but_a_lake_error_is_ever_raised(text: str | bytes) -> None:
    for stored in (First, Numbered):
        with pytest.raises(LakeError):
            stored.from_json(text, "t")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: the file cannot be read: No such file"):
        Numbered.from_file(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        Numbered.from_file(tmp_path)
    (tmp_path / "some.json").write_text('{"format": 1, "x": 3}')
    assert Numbered.from_file(tmp_path / "some.json").x == 3


def test_a_table_is_numbered_in_its_schema() -> None:
    columns = pa.schema([pa.field("id", pa.string()), pa.field("n", pa.int64())])
    table = Format("the table", error=InputError)
    table.check_columns(columns, columns, "t")
    table.check_columns(
        columns.append(pa.field("later", pa.int8())).with_metadata({b"lake:format": b"1"}), columns, "t"
    )
    newer = columns.with_metadata({b"lake:format": b"2", b"lake:release": b"0.5"})
    with pytest.raises(InputError, match=r"t: the table has format 2 and needs matryoshka-lake 0\.5"):
        table.check_columns(newer, columns, "t")
    with pytest.raises(InputError, match="malformed format number 'x'"):
        table.check_columns(columns.with_metadata({b"lake:format": b"x"}), columns, "t")
    with pytest.raises(InputError, match="has no column 'n'"):
        table.check_columns(columns.remove(1), columns, "t")
    with pytest.raises(InputError, match="has a column 'n' of type string, not int64"):
        table.check_columns(pa.schema([("id", pa.string()), ("n", pa.string())]), columns, "t")
