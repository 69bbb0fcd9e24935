"""JSON as shards hold it: parsing a record, and the text that a value is kept as.

Owns what counts as JSON: what Python's own reader takes (NaN and Infinity, which become null, and a byte-order mark)
in valid UTF-8. A number that is a value of its own keeps the digits it was written with; within a list or an object it
keeps its value, and 0.10 is written 0.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import orjson

from pipelines.shards.decompression import Damage

MARK = b"\xef\xbb\xbf"
"""The byte-order mark of UTF-8, with which some writers begin a text; it is no part of it."""
# orjson reads longer numbers as the nearest float.
_LONG_NUMBER = re.compile(rb"[0-9.]{19}")


class Number(float):
    """A float that keeps the digits it was written with."""

    text = ""


class Scalar(str):
    """The text of a JSON number or truth value; a JSON string is a plain `str`."""

    __slots__ = ()


def parse_json(data: bytes, exact: Iterable[str] = ()) -> Any:
    """Parse JSON.

    Args:
        data: One value.
        exact: Keys of an object whose numbers keep their digits for `as_text`.

    Raises:
        Damage: It is not JSON, is nested too deep, or is not valid UTF-8; the reason is `bad_json` or `bad_utf8`.
    """
    data = data.removeprefix(MARK)
    if _LONG_NUMBER.search(data) is None:
        try:
            value = orjson.loads(data)
            if not (isinstance(value, dict) and any(isinstance(value.get(key), float) for key in exact)):
                return value
        except orjson.JSONDecodeError:
            pass  # json decides, and says why
    try:
        value = json.loads(data.decode(), parse_constant=lambda _: None, parse_float=_number)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise Damage("bad_utf8", f"not JSON: not valid UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise Damage("bad_json", "not JSON: half of a surrogate pair stands alone") from None
    except RecursionError:
        raise Damage("bad_json", "not JSON: nested too deep") from None
    except json.JSONDecodeError as error:
        raise Damage("bad_json", f"not JSON: {error.msg} at column {error.pos + 1}") from None
    except ValueError as error:
        raise Damage("bad_json", f"not JSON: {error}") from None
    return value


def json_type(value: Any) -> str:
    """Name the type of a parsed value as JSON does, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def as_text(value: Any) -> str | None:
    """Convert a JSON value to text: strings unchanged, null to None, everything else to JSON.

    Raises:
        Damage: It is nested too deep.
    """
    if value is None or isinstance(value, str):
        return value
    try:
        text = orjson.dumps(value, default=_refuse).decode()
    except TypeError:  # a number that orjson does not hold, or nested too deep for it
        try:
            text = _written(value)
        except RecursionError:
            raise Damage("bad_json", "a value is nested too deep") from None
    return Scalar(text) if isinstance(value, int | float) else text


def _written(value: Any) -> str:
    """Write a value as JSON; a number that no double holds has the digits it was read with."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return value.text if isinstance(value, Number) else json.dumps(value, ensure_ascii=False)


def _number(text: str) -> float:
    number = Number(text)
    number.text = text
    return number


def _refuse(value: Any) -> Any:
    raise TypeError(value)
