"""Values of kept columns: converting what a shard holds to the column's type, without altering a value.

Owns the rule of what fits: a value fits a type if it converts there and back unchanged. One that does not is never
null, rounded or cut; the caller rejects its sample. Columns and children of structs are found by their names.
"""

from __future__ import annotations

import decimal
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.shards.kept_types import is_bytes, is_list, is_text, widen
from schemas.errors import FieldNotFound

Mask = npt.NDArray[np.bool_]
_SHOWN = 80


def convert(array: pa.Array, to: pa.DataType, are_scalars: Mask | None = None) -> tuple[pa.Array, Mask]:
    """Convert an array.

    Args:
        array: Values of any type.
        to: A storable type.
        are_scalars: Which of its texts were numbers or truth values in JSON. These fit a column of numbers by their
            value; any other text only if it is written as JSON writes the number.

    Returns:
        The array in the new type, and whether each value fits; what stands in place of one that does not is valid
        but means nothing.

    Raises:
        TypeError: No value of this type fits, whatever it is.
    """
    array = _plain(array)
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(len(array), to), np.ones(len(array), bool)
    if pa.types.is_null(to):
        return pa.nulls(len(array), to), _mask(array.is_null())
    if pa.types.is_map(kind) and pa.types.is_map(to):
        return _convert_map(array, to)
    if is_list(kind) and is_list(to):
        return _convert_list(array, to)
    if pa.types.is_struct(kind) and pa.types.is_struct(to):
        return _convert_struct(array, to)
    is_number = pa.types.is_integer(to) or pa.types.is_floating(to) or pa.types.is_boolean(to)
    if is_text(kind) and is_number:
        return _numbers_of_texts(array, to, np.zeros(len(array), bool) if are_scalars is None else are_scalars)
    return _convert_leaf(array, to)


def check_convertible(kind: pa.DataType, to: pa.DataType, name: str, where: str) -> None:
    """Refuse a shard's type of which no value fits the column.

    Args:
        kind: The type in the shard.
        to: The type of the column.
        name: The column.
        where: Address of the shard.

    Raises:
        FieldNotFound: The types are not alike.
    """
    try:
        convert(pa.nulls(0, kind), to)
    except TypeError:
        raise FieldNotFound(
            f"{where}: field {name!r} is {kind} here and {to} in the table; "
            "keep only fields that have one type in all shards, or store it as another column"
        ) from None


def shown(array: pa.Array, row: int) -> str:
    """Return a value as text for a message, whatever it holds."""
    one = array.slice(row, 1)
    try:
        value: Any = one[0].as_py()
    except (ValueError, OverflowError, pa.ArrowException):  # no UTF-8, or a time that Python cannot hold
        value = one.cast(pa.binary())[0].as_py() if is_text(array.type) else " ".join(str(one).split())
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _plain(array: pa.Array) -> pa.Array:
    """Return the array without extension types, dictionaries, run ends and views; children stay as they are."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage)
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(array))
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return array.cast(views[kind]) if kind in views else array


def _convert_list(array: pa.Array, to: pa.DataType) -> tuple[pa.Array, Mask]:
    # `flatten` leaves out what null lists hold, and lengths of null lists are null.
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    is_null = _mask(array.is_null())
    if pa.types.is_fixed_size_list(array.type) and is_null.any():
        lengths[is_null] = 0
    items, fits_items = convert(array.flatten(), to.value_type)
    parents = np.repeat(np.arange(len(array)), lengths)
    fits: Mask = np.ones(len(array), bool)
    fits[parents[~fits_items]] = False
    if pa.types.is_fixed_size_list(to):
        fits &= (lengths == to.list_size) | is_null
        return _fixed(items, lengths, fits & ~is_null, to), fits
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    large = pa.types.is_large_list(to)
    make = pa.LargeListArray if large else pa.ListArray
    offset_type = pa.int64() if large else pa.int32()
    mask = pa.array(is_null) if is_null.any() else None
    return make.from_arrays(pa.array(offsets, offset_type), items, type=to, mask=mask), fits


def _fixed(items: pa.Array, lengths: npt.NDArray[np.int64], is_whole: Mask, to: pa.DataType) -> pa.Array:
    """Return lists of a fixed size; those that are not whole become null."""
    starts = np.cumsum(lengths) - lengths
    at = starts[:, None] + np.arange(to.list_size)
    rows = pa.array(np.where(is_whole[:, None], at, -1).ravel(), pa.int64())
    rows = pc.if_else(pc.less(rows, 0), pa.scalar(None, pa.int64()), rows)
    return pa.FixedSizeListArray.from_arrays(items.take(rows), type=to, mask=pa.array(~is_whole))


def _convert_struct(array: pa.Array, to: pa.DataType) -> tuple[pa.Array, Mask]:
    given = dict(zip([f.name for f in array.type], array.flatten(), strict=True))
    fits: Mask = np.ones(len(array), bool)
    children = []
    for field in to:
        child, fits_child = convert(given.pop(field.name, pa.nulls(len(array))), field.type)
        children.append(child)
        fits &= fits_child
    for child in given.values():  # children that the column lacks
        fits &= _mask(child.is_null())
    mask = array.is_null()
    return pa.StructArray.from_arrays(children, fields=list(to), mask=mask if array.null_count else None), fits


def _convert_map(array: pa.Array, to: pa.DataType) -> tuple[pa.Array, Mask]:
    pairs = pa.struct([pa.field("key", array.type.key_type), pa.field("value", array.type.item_type)])
    start = array.offsets[0].as_py() if len(array) else 0
    offsets = pc.subtract(array.offsets, start)
    entries = pa.StructArray.from_arrays([array.keys, array.items], fields=list(pairs)).slice(start)
    mask = pa.array(_mask(array.is_null()))
    target = pa.list_(pa.struct([pa.field("key", to.key_type), pa.field("value", to.item_type)]))
    lists, fits = _convert_list(pa.ListArray.from_arrays(offsets, entries, type=pa.list_(pairs), mask=mask), target)
    # A key that does not fit is null here, and a map has no null key.
    lists = pc.if_else(pa.array(fits), lists, pa.scalar(None, target))
    keys, items = lists.values.flatten()
    return pa.MapArray.from_arrays(lists.offsets, keys, items, type=to, mask=lists.is_null()), fits


def _convert_leaf(array: pa.Array, to: pa.DataType) -> tuple[pa.Array, Mask]:
    kind = array.type
    if is_text(to) and (is_text(kind) or is_bytes(kind)):
        return _texts(array, to)
    if kind == to:
        return array, np.ones(len(array), bool)
    from_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if widen(kind, to) is None and not (from_number and is_text(to)):
        raise TypeError
    try:
        if pa.types.is_integer(kind) and pa.types.is_decimal(to):  # Arrow asks for room for any integer
            array = array.cast(widen(kind, to))
        made = array.cast(to)
        fits = np.ones(len(array), bool)
    except pa.ArrowInvalid:
        singles = [_one(array.slice(row, 1), to) for row in range(len(array))]
        made = pa.concat_arrays([one for one, _ in singles])
        fits = np.fromiter((fits_one for _, fits_one in singles), bool, len(array))
    return made, fits & _is_same(array, made)


def _one(single: pa.Array, to: pa.DataType) -> tuple[pa.Array, bool]:
    try:
        return single.cast(to), True
    except pa.ArrowInvalid:
        return pa.nulls(1, to), False


def _is_same(array: pa.Array, made: pa.Array) -> Mask:
    """Tell for each value whether it comes back unchanged; where `made` is null, the value must be null too."""
    if pa.types.is_decimal(array.type) or pa.types.is_decimal(made.type):
        exact = widen(array.type, made.type)
        same = _mask(pc.equal(array.cast(exact), made.cast(exact)))
    else:
        given, back = _comparable(array), _comparable(made.cast(array.type, safe=False))
        same = _mask(pc.equal(given, back))
        if pa.types.is_floating(array.type):
            same |= _mask(pc.and_(pc.is_nan(given), pc.is_nan(back)))
    if pa.types.is_floating(array.type) and not pa.types.is_floating(made.type):  # which have no negative zero
        numbers = pc.fill_null(_comparable(array), 0).to_numpy(zero_copy_only=False)
        same &= ~(np.signbit(numbers) & (numbers == 0)) | is_text(made.type)
    return same | _mask(pc.and_(array.is_null(), made.is_null()))


def _comparable(array: pa.Array) -> pa.Array:
    return array.cast(pa.float32()) if pa.types.is_float16(array.type) else array


def _texts(array: pa.Array, to: pa.DataType) -> tuple[pa.Array, Mask]:
    """Convert bytes or strings to strings; those that are not valid UTF-8 do not fit."""
    raw = array.cast(pa.large_binary() if pa.types.is_large_string(to) else pa.binary())
    try:
        return raw.cast(to), np.ones(len(array), bool)
    except pa.ArrowInvalid:
        fits = np.fromiter((_is_utf8(value) for value in raw.to_pylist()), bool, len(raw))
        # The bad bytes must go: Lance checks those behind a null as well.
        return pc.if_else(pa.array(fits), raw, pa.scalar(b"", raw.type)).cast(to), fits


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _numbers_of_texts(array: pa.Array, to: pa.DataType, are_scalars: Mask) -> tuple[pa.Array, Mask]:
    """Read texts as numbers or truth values."""
    values, fits = [], np.ones(len(array), bool)
    raw = array.cast(pa.large_binary())
    for row, text in enumerate(raw.to_pylist()):
        number = None if text is None else _number(text, to)
        if number is not None and not are_scalars[row] and text not in _json_forms(number):
            number = None
        fits[row] = text is None or number is not None
        values.append(number)
    return pa.array(values, to, from_pandas=False), fits


def _json_forms(number: float) -> tuple[bytes, ...]:
    """Return how JSON writes a number; a whole one with or without its point."""
    written = json.dumps(number).encode()
    return (written, written.removesuffix(b".0"))


def _number(text: bytes, to: pa.DataType) -> float | bool | None:
    """Return the number of exactly the text's value; None if the type holds none."""
    if pa.types.is_boolean(to):
        return {b"true": True, b"false": False}.get(text)
    try:
        exact = decimal.Decimal(text.decode("ascii"))
        if not exact.is_finite() or (pa.types.is_integer(to) and (exact != int(exact) or _is_negative_zero(exact))):
            return None
        number: float = int(exact) if pa.types.is_integer(to) else float(exact)
        stored = pa.scalar(number, to).as_py()
    except (ValueError, ArithmeticError, pa.ArrowInvalid, OverflowError):
        return None
    if isinstance(stored, int):
        return stored
    is_exact = math.isfinite(stored) and decimal.Decimal(repr(float(stored))) == exact
    return float(stored) if is_exact else None


def _is_negative_zero(exact: decimal.Decimal) -> bool:
    return exact.is_zero() and exact.is_signed()


def _mask(array: pa.Array) -> Mask:
    mask: Mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return mask
