"""A kept value arrives as it was, or does not fit: over pairs of types and values, never a third."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shards.kept_types import storable, widen, widen_shards
from pipelines.shards.kept_values import check_convertible, convert, shown
from schemas.errors import FieldNotFound
from schemas.records import Shard

DAY = dt.datetime(2020, 2, 29)
EXAMPLES: dict[pa.DataType, list[Any]] = {
    pa.bool_(): [True, False],
    pa.int8(): [-128, 127],
    pa.uint8(): [0, 255],
    pa.int32(): [-(2**31), 7],
    pa.int64(): [2**53 + 1, 2**63 - 1, -(2**63), 7],
    pa.uint64(): [2**64 - 1, 7],
    pa.float16(): [np.float16(1.5), np.float16("inf")],
    pa.float32(): [1.5, 16777216.0, float("nan"), -0.5],
    pa.float64(): [0.1, 1e300, 2.0**63, -0.0, float("nan"), 7.0],
    pa.decimal128(5, 2): [decimal.Decimal("999.99"), decimal.Decimal("7.00")],
    pa.decimal128(20, 4): [decimal.Decimal("7.1234"), decimal.Decimal("1234567890123456.0000")],
    pa.date32(): [DAY.date(), dt.date(1, 1, 1)],
    pa.date64(): [DAY.date()],
    pa.timestamp("s"): [DAY, dt.datetime(9999, 12, 31)],
    pa.timestamp("us"): [DAY + dt.timedelta(microseconds=1), DAY],
    pa.timestamp("ns"): [1, 10**9],
    pa.timestamp("us", "UTC"): [DAY],
    pa.timestamp("ms", "Europe/Berlin"): [DAY],
    pa.time32("s"): [dt.time(1, 2, 3)],
    pa.time64("us"): [dt.time(1, 2, 3, 4), dt.time(5)],
    pa.duration("s"): [dt.timedelta(days=1)],
    pa.duration("us"): [dt.timedelta(microseconds=1), dt.timedelta(1)],
    pa.string(): ["a", "", "7", "05", "0.1", "true"],
    pa.large_string(): ["a", "ü"],
    pa.binary(): [b"a", b"\xff"],
    pa.large_binary(): [b"a"],
    pa.binary(2): [b"ab"],
}


def arrays() -> dict[pa.DataType, pa.Array]:
    """Return an array of each type, with a null in it; nested ones around them."""
    made = {kind: pa.array([*values, None], kind) for kind, values in EXAMPLES.items()}
    for kind in (pa.int32(), pa.int64(), pa.float64(), pa.string(), pa.binary()):
        one = EXAMPLES[kind][:2]
        rows = [[one[0], None, one[1]], [], None, one]
        for made_list in (pa.list_(kind), pa.large_list(kind), pa.list_(pa.field("element", kind))):
            made[made_list] = pa.array(rows, made_list)
        pairs = pa.list_(kind, 2)
        made[pairs] = pa.array([one, None, one], pairs)
        structs = pa.struct([("a", kind), ("b", pa.string())])
        made[structs] = pa.array([{"a": one[0], "b": "x"}, None, {"a": None}], structs)
        maps = pa.map_(pa.string(), kind)
        made[maps] = pa.array([[("k", one[0]), ("l", None)], None, []], maps)
    return made


ARRAYS = arrays()


def is_same(one: Any, other: Any) -> bool:
    """Compare normal values; a number may have become its JSON text, or the other way round."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    texts = [value for value in (one, other) if isinstance(value, bytes)]
    numbers = [value for value in (one, other) if isinstance(value, int | float) or value == "NaN"]
    if not (texts and numbers):
        return bool(one == other)
    if isinstance(numbers[0], bool) or numbers[0] == "NaN":
        return str(numbers[0]).lower() == texts[0].decode().lower()
    return decimal.Decimal(texts[0].decode()) == decimal.Decimal(repr(numbers[0]))


def normal(scalar: pa.Scalar) -> Any:
    """Return a value in a form that is equal for equal values of all types; a time as a count of nanoseconds."""
    if not scalar.is_valid:
        return None
    kind = scalar.type
    if pa.types.is_map(kind):
        return [(normal(pair["key"]), normal(pair["value"])) for pair in scalar.values]
    if pa.types.is_nested(kind) and not pa.types.is_struct(kind):
        return [normal(item) for item in scalar.values]
    if pa.types.is_struct(kind):
        children = {name: normal(child) for name, child in scalar.items()}
        return {name: child for name, child in children.items() if child is not None}
    if pa.types.is_temporal(kind):
        per_unit = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1, "day": 86400 * 10**9}
        unit = "day" if kind == pa.date32() else "ms" if kind == pa.date64() else kind.unit
        return scalar.value * per_unit[unit]
    value = scalar.as_py()
    if isinstance(value, float) and value != value:
        return "NaN"
    return value.encode() if isinstance(value, str) else value


@pytest.mark.parametrize("source", ARRAYS, ids=str)
def test_a_value_arrives_as_it_was_or_does_not_fit(source: pa.DataType) -> None:
    for target in ARRAYS:
        array = ARRAYS[source]
        try:
            made, fits = convert(array, target)
        except TypeError:
            assert widen(source, target) is None
            continue
        made.validate(full=True)
        assert made.type == target
        for row in range(len(array)):
            if not fits[row]:
                assert array[row].is_valid, (source, target)
                continue
            assert is_same(normal(array[row]), normal(made[row])), (source, target, array[row], made[row])


NUMBERS = ["7", "-1.5", "1e3", "1.10", "-0", "1e+16", "7.0", "true"]  # as JSON may write them
NO_NUMBERS = ["007", " 7", "0x1", "1_0", "nan", "Infinity", "+7", ".5", "True"]


@pytest.mark.parametrize(
    ("kind", "as_text", "as_number"),
    [
        (pa.int64(), ["7"], ["7", "1e3", "1e+16", "7.0"]),
        (pa.float64(), ["7", "-1.5", "-0", "1e+16", "7.0"], NUMBERS[:-1]),
        (pa.bool_(), ["true"], ["true"]),
    ],
)
def test_a_text_is_a_number_only_if_json_writes_it_so(
    kind: pa.DataType, as_text: list[str], as_number: list[str]
) -> None:
    _, fits = convert(pa.array(NUMBERS + NO_NUMBERS), kind)
    assert [text for text, one in zip(NUMBERS + NO_NUMBERS, fits, strict=True) if one] == as_text
    _, fits = convert(pa.array(NUMBERS), kind, np.ones(len(NUMBERS), bool))
    assert [text for text, one in zip(NUMBERS, fits, strict=True) if one] == as_number


def test_a_negative_zero_fits_only_where_zeros_have_a_sign() -> None:
    zeros = pa.array([-0.0, 0.0, None, 1.0])
    for kind in (pa.int8(), pa.uint64()):
        assert convert(zeros, kind)[1].tolist() == [False, True, True, True]
    for kind in (pa.float16(), pa.float32(), pa.string()):
        assert convert(zeros, kind)[1].all()


@pytest.mark.parametrize("source", ARRAYS, ids=str)
def test_what_is_widened_holds_the_values_of_both(source: pa.DataType) -> None:
    for other in ARRAYS:
        wide = widen(source, other)
        assert wide == widen(other, source) or {source, other} & {wide}
        if wide is None:
            continue
        is_exact = True
        for kind in (source, other):
            _, fits = convert(ARRAYS[kind], wide)
            is_exact &= bool(fits.all())
        # Only these cannot hold all values of both: 64-bit integers and floats, bytes as text, times beyond ns.
        text = f"{source} {other}"
        assert is_exact or any(word in text for word in ("int64", "binary", "timestamp", "date")), text


def test_null_meets_anything_at_any_depth() -> None:
    assert widen(pa.null(), pa.int8()) == pa.int8()
    assert widen(pa.list_(pa.null()), pa.list_(pa.string())) == pa.list_(pa.string())
    one, other = pa.struct([("a", pa.null())]), pa.struct([("b", pa.int8()), ("a", pa.int64())])
    assert widen(one, other) == pa.struct([("a", pa.int64()), ("b", pa.int8())])


def test_alike_is_not_everything() -> None:
    for one, other in itertools.combinations(
        (pa.int64(), pa.string(), pa.bool_(), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.list_(pa.int8())), 2
    ):
        assert widen(one, other) is None
    shards = [
        (Shard(f"{name}.parquet", 1, "1", "parquet"), pa.schema([("c", kind)]))
        for name, kind in (("one", pa.null()), ("two", pa.int64()), ("three", pa.string()))
    ]
    assert widen_shards(shards[:2]) == pa.schema([("c", pa.int64())])
    with pytest.raises(FieldNotFound, match=r"'c' is int64 in two.parquet and string in three.parquet"):
        widen_shards(shards)
    with pytest.raises(FieldNotFound, match="'c' is bool here and int64 in the table"):
        check_convertible(pa.bool_(), pa.int64(), "c", "x.parquet")


@given(st.lists(st.none() | st.lists(st.none() | st.integers(-300, 300), max_size=3), max_size=6), st.integers(0, 3))
def test_a_slice_of_nested_values_converts_like_its_rows(rows: list[Any], start: int) -> None:
    array = pa.array(rows, pa.list_(pa.int32())).slice(start)
    made, fits = convert(array, pa.large_list(pa.int8()))
    for row, values in enumerate(array.to_pylist()):
        assert fits[row] == all(value is None or -128 <= value <= 127 for value in values or [])
        if fits[row]:
            assert made[row].as_py() == values
    maps = pa.array(
        [None if r is None else [(str(i), v) for i, v in enumerate(r)] for r in rows], pa.map_(pa.string(), pa.int32())
    ).slice(start)
    made, fits = convert(maps, pa.map_(pa.string(), pa.int8()))
    for row, values in enumerate(maps.to_pylist()):
        assert not fits[row] or made[row].as_py() == values


def test_types_become_what_a_table_holds() -> None:
    entries = pa.map_(pa.field("k", pa.string(), nullable=False), pa.field("v", pa.dictionary(pa.int8(), pa.string())))
    assert storable(pa.list_(entries)) == pa.list_(pa.map_(pa.string(), pa.string()))
    assert storable(pa.struct([("u", pa.uuid())])) == pa.struct([("u", pa.binary(16))])
    assert storable(pa.list_(pa.string_view(), 2)) == pa.list_(pa.string())
    assert storable(pa.decimal64(12, 2)) == pa.decimal128(12, 2)


def test_any_value_can_be_shown() -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    assert shown(bad, 0) == "b'\\xff'"
    assert "99999999999999999" in shown(pa.array([99999999999999999], pa.timestamp("s")), 0)
    assert len(shown(pa.array(["x" * 999]), 0)) < 100
