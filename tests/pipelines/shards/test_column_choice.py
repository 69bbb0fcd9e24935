"""The columns that a config names are found, in any Arrow type that holds the same values; others are refused."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.shards.column_choice import choose_columns, to_raw_block
from schemas.config import InputConfig
from schemas.errors import FieldNotFound

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
BATCH = pa.record_batch(
    {
        "title": pa.array([None, "river", None]),
        "body": pa.array(["stone", "glass", None], pa.large_string()),
        "key": pa.array([7, 8, 9], pa.int32()),
        "topic": pa.array(["a", "b", "a"]).dictionary_encode(),
        "photo": pa.array([{"bytes": b"x", "path": ""}, None, {"bytes": b"z", "path": ""}], PICTURE),
        "at": pa.array([1.0, 2.0, 3.0]),
    }
)


def test_the_first_value_that_is_not_null_is_the_input() -> None:
    choice = choose_columns(
        BATCH.schema, InputConfig(text="title;caption;body", id="key", keep=("topic as subject",)), "a.parquet"
    )
    assert choice.columns == ["title", "body", "key", "topic"]
    assert choice.kept == pa.schema([("subject", pa.string())])
    block = to_raw_block(BATCH, choice, start=40)
    assert block.inputs.to_pylist() == ["stone", "river", None]
    assert block.positions.to_pylist() == [40, 41, 42]
    assert block.ids is not None
    assert block.ids.to_pylist() == [7, 8, 9]
    assert {name: column.to_pylist() for name, column in block.kept.items()} == {"subject": ["a", "b", "a"]}


def test_a_type_that_no_table_holds_and_a_name_that_is_there_twice_are_refused() -> None:
    twice = pa.schema([("text", pa.string()), ("c", pa.int8()), ("c", pa.string())])
    with pytest.raises(FieldNotFound, match="has 2 columns 'c'"):
        choose_columns(twice, InputConfig(text="text", keep=("c",)), "a.parquet")
    assert choose_columns(twice, InputConfig(text="text"), "a.parquet").kept.names == []
    for kind in (
        pa.month_day_nano_interval(),
        pa.struct([]),
        pa.list_(pa.struct([("a", pa.int8()), ("a", pa.int8())])),
    ):
        schema = pa.schema([("text", pa.string()), ("c", kind)])
        with pytest.raises(FieldNotFound, match="which a table cannot hold"):
            choose_columns(schema, InputConfig(text="text", keep=("c",)), "a.parquet")


def test_a_picture_may_be_the_bytes_of_a_struct() -> None:
    choice = choose_columns(BATCH.schema, InputConfig(image="photo"), "a.parquet")
    assert choice.columns == ["photo.bytes"]
    assert to_raw_block(BATCH, choice, start=0).inputs.to_pylist() == [b"x", None, b"z"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (InputConfig(text="boddy"), "boddy"),
        (InputConfig(text="body", keep=("topics",)), "topics"),
        (InputConfig(text="at"), "as text it must be a string"),
        (InputConfig(image="body"), "as image it must be binary"),
        (InputConfig(text="body", id="at"), "an id is a text or an integer"),
    ],
)
def test_a_column_that_is_missing_or_of_another_type_is_refused(config: InputConfig, message: str) -> None:
    with pytest.raises(FieldNotFound, match=message):
        choose_columns(BATCH.schema, config, "a.parquet")
