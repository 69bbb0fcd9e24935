"""Types of kept columns: which types a table can hold, and the one type that two shards' types widen to.

Owns the rule of widening. A type is widened only where every value keeps its meaning; whether a single value fits is
checked when it is read, in `pipelines.shards.kept_values`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from schemas.errors import FieldNotFound
from schemas.records import Shard

_UNITS = ("s", "ms", "us", "ns")
_MAX_DIGITS = 76
TYPED_FORMATS = frozenset({"parquet", "lance"})
"""Formats whose shards have types of their own; the others hold texts and bytes."""


def storable(kind: pa.DataType) -> pa.DataType | None:
    """Return the type that a table holds values of `kind` in, or None if there is none.

    Dictionaries, views and extension types become the type of their values; maps get the child names that Lance reads
    back; lists of a fixed size become lists, unless their items are numbers.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return storable(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return storable(kind.value_type)
    if pa.types.is_map(kind):
        key, item = storable(kind.key_type), storable(kind.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if is_list(kind):
        return _list_of(kind, storable(kind.value_type))
    if pa.types.is_struct(kind):
        names, types = [f.name for f in kind], [storable(f.type) for f in kind]
        if not names or len(set(names)) < len(names) or None in types:
            return None
        return pa.struct([pa.field(name, one) for name, one in zip(names, types, strict=True)])
    if pa.types.is_decimal(kind):
        return _decimal(kind.precision - kind.scale, kind.scale)
    if pa.types.is_union(kind) or pa.types.is_interval(kind):
        return None
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def widen(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the narrowest type for the values of two storable types, or None if they are not alike.

    Integers and floats meet in the wider one, times in the finer unit, decimals in enough digits; lists, structs and
    maps child by child, where a struct gets the children of both. Null meets anything.
    """
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_map(one) and pa.types.is_map(other):
        key, item = widen(one.key_type, other.key_type), widen(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if is_list(one) and is_list(other):
        return _widen_lists(one, other)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _widen_structs(one, other)
    if is_text(one) and is_text(other):
        return pa.large_string() if pa.large_string() in (one, other) else pa.string()
    if is_bytes(one) and is_bytes(other):
        return pa.large_binary() if pa.large_binary() in (one, other) else pa.binary()
    # Some writers leave texts unmarked: what is text in one shard is text in all.
    if (is_text(one) and is_bytes(other)) or (is_bytes(one) and is_text(other)):
        return one if is_text(one) else other
    return _widen_times(one, other) or _widen_numbers(one, other)


def widen_shards(found: Sequence[tuple[Shard, pa.Schema]]) -> pa.Schema:
    """Widen the kept columns of several shards to one schema.

    JSON lines and tars have texts only, so a type that Parquet or Lance gives comes first.

    Raises:
        FieldNotFound: Two shards have types that are not alike; the message names both.
    """
    typed = [(shard, schema) for shard, schema in found if shard.format in TYPED_FORMATS]
    columns: dict[str, tuple[pa.Field, Shard]] = {}
    for shard, schema in typed or found:
        for field in schema:
            known, first = columns.get(field.name, (field, shard))
            kind = widen(known.type, field.type)
            if kind is None:
                raise FieldNotFound(
                    f"field {field.name!r} is {known.type} in {first.uri} and {field.type} in {shard.uri}, which no "
                    "type holds both; convert one of them, or leave the field out of input.keep"
                )
            columns[field.name] = (known.with_type(kind), first if kind == known.type else shard)
    return pa.schema([field for field, _ in columns.values()])


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a type is a list, of any size of offsets or of a fixed size."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a type is a string."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Tell whether a type is binary, of any size."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def has_null(kind: pa.DataType) -> bool:
    """Tell whether a type is null, or has a child that is."""
    return bool(pa.types.is_null(kind)) or any(has_null(kind.field(i).type) for i in range(kind.num_fields))


def _list_of(kind: pa.DataType, item: pa.DataType | None) -> pa.DataType | None:
    if item is None:
        return None
    field = pa.field(kind.value_field.name, item)
    if pa.types.is_large_list(kind):
        return pa.large_list(field)
    is_fixed = pa.types.is_fixed_size_list(kind) and (pa.types.is_integer(item) or pa.types.is_floating(item))
    return pa.list_(field, kind.list_size) if is_fixed else pa.list_(field)


def _widen_lists(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    item = widen(one.value_type, other.value_type)
    if item is None:
        return None
    are_fixed = pa.types.is_fixed_size_list(one) and pa.types.is_fixed_size_list(other)
    if are_fixed and one.list_size == other.list_size:
        return _list_of(one, item)
    field = pa.field(one.value_field.name, item)
    return pa.large_list(field) if pa.types.is_large_list(one) or pa.types.is_large_list(other) else pa.list_(field)


def _widen_structs(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    children: dict[str, pa.DataType] = {f.name: f.type for f in one}
    for child in other:
        kind = widen(children.get(child.name, pa.null()), child.type)
        if kind is None:
            return None
        children[child.name] = kind
    return pa.struct([pa.field(name, kind) for name, kind in children.items()])


def _widen_times(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    types = pa.types
    for is_kind, make in ((types.is_duration, pa.duration), (types.is_time, _time)):
        if is_kind(one) and is_kind(other):
            return make(_finer(one, other))
    if types.is_timestamp(one) and types.is_timestamp(other):
        if (one.tz is None) != (other.tz is None):
            return None
        return pa.timestamp(_finer(one, other), one.tz if one.tz == other.tz else "UTC")
    if types.is_date(one) and types.is_date(other):
        return pa.date32()
    for date, stamp in ((one, other), (other, one)):
        if types.is_date(date) and types.is_timestamp(stamp) and stamp.tz is None:
            return stamp
    return None


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return _UNITS[max(_UNITS.index(one.unit), _UNITS.index(other.unit))]


def _time(unit: str) -> pa.DataType:
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _widen_numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    types = pa.types
    if types.is_decimal(one) or types.is_decimal(other):
        digits = [_digits(kind) for kind in (one, other)]
        (whole, scale), (other_whole, other_scale) = [d or (0, 0) for d in digits]
        return None if None in digits else _decimal(max(whole, other_whole), max(scale, other_scale))
    if types.is_floating(one) and types.is_floating(other):
        return max(one, other, key=lambda kind: kind.bit_width)
    if types.is_integer(one) and types.is_integer(other):
        return _widen_integers(one, other)
    for whole, real in ((one, other), (other, one)):
        if types.is_integer(whole) and types.is_floating(real):
            # A float holds every integer of half its bits, or a little less: 11, 24 and 53 bits.
            return {(16, 8): pa.float16(), (32, 8): pa.float32(), (32, 16): pa.float32()}.get(
                (real.bit_width, whole.bit_width), pa.float64()
            )
    return None


def _widen_integers(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    signed = [kind for kind in (one, other) if pa.types.is_signed_integer(kind)]
    if len(signed) != 1:
        return max(one, other, key=lambda kind: kind.bit_width)
    unsigned = other if signed[0] == one else one
    bits = min(64, max(signed[0].bit_width, 2 * unsigned.bit_width))
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def _digits(kind: pa.DataType) -> tuple[int, int] | None:
    """Return the digits of a decimal or integer before and behind its point; None for another type."""
    if pa.types.is_decimal(kind):
        return kind.precision - kind.scale, kind.scale
    return (len(str(1 << kind.bit_width)), 0) if pa.types.is_integer(kind) else None


def _decimal(whole: int, scale: int) -> pa.DataType | None:
    """Return the decimal of so many digits before and behind its point; None if there is none so long."""
    digits = max(1, whole + scale)
    if digits > _MAX_DIGITS:
        return None
    return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)
