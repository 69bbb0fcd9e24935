"""Samples as read: values of JSON as inputs, and the limits of a block."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.shards.decompression import Damage
from pipelines.shards.raw_blocks import BLOCK_ROWS, RawBlockBuilder, from_json, input_field, require_fields
from schemas.config import InputConfig
from schemas.errors import FieldNotFound
from schemas.records import Shard

SHARD = Shard("/a.jsonl", 1, "1", "jsonl")
TEXT = InputConfig(text="text", keep=("label",))


def test_a_block_is_full_by_rows_and_starts_again() -> None:
    builder = RawBlockBuilder(SHARD, TEXT, pa.string(), has_ids=True)
    for position in range(BLOCK_ROWS - 1):
        builder.add(position, str(position), "words", ["a"])
    assert not builder.is_full
    builder.reject(BLOCK_ROWS - 1, "last", "bad_json", "not JSON")
    assert builder.is_full
    raw = builder.take()
    assert (len(raw.positions), len(raw.rejects)) == (BLOCK_ROWS - 1, 1)
    assert raw.kept["label"].to_pylist() == ["a"] * (BLOCK_ROWS - 1)
    assert len(builder.take().positions) == 0


@pytest.mark.parametrize(
    ("value", "modality", "reason"),
    [(5, "text", "not_text"), ("no base64!", "image", "not_base64"), ([1, "2"], "vector", "not_vector")],
)
def test_a_json_value_of_another_kind_is_damage(value: object, modality: str, reason: str) -> None:
    with pytest.raises(Damage) as damage:
        from_json(value, modality)  # type: ignore[arg-type]
    assert damage.value.reason == reason


def test_integers_of_any_length_are_numbers_of_a_vector() -> None:
    for large in (1 << 63, -(1 << 63) - 1, 10**30):
        assert from_json([large, 0], "vector") == [float(large), 0.0]
    for bad in ([10**400], [True]):
        with pytest.raises(Damage) as damage:
            from_json(bad, "vector")
        assert damage.value.reason == "not_vector"


def test_json_values_become_inputs() -> None:
    assert from_json("data:image/png;base64,eA==", "image") == b"x"
    assert from_json([1, None], "vector") == [1, None]


def test_one_of_several_fields_is_enough() -> None:
    config = InputConfig(image="jpg;png", keep=("txt",))
    assert input_field(config) == "jpg;png"
    require_fields(config, ["png", "txt"], "a.tar")
    with pytest.raises(FieldNotFound, match="no field 'txt'; did you mean 'text'"):
        require_fields(config, ["png", "text"], "a.tar")
