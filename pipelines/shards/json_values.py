"""JSON as shards hold it: parsing a record, and the text that a value is kept as.

Owns what counts as JSON: what Python's own reader takes (NaN and Infinity, which become null, and a byte-order mark)
in valid UTF-8. Integers keep all their digits, and so does a number that is a value of its own; within a list or an
object a number with a point has the digits of a double.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from pipelines.shards.decompression import Damage

_MARK = b"\xef\xbb\xbf"
# orjson reads longer numbers as the nearest float.
_LONG_NUMBER = re.compile(rb"[0-9.]{19}")


class Number(float):
    """A float that keeps the digits it was written with."""

    text = ""


def parse_json(data: bytes) -> Any:
    """Parse JSON.

    Raises:
        Damage: It is not JSON, is nested too deep, or is not valid UTF-8; the reason is `bad_json` or `bad_utf8`.
    """
    data = data.removeprefix(_MARK)
    if _LONG_NUMBER.search(data) is None:
        try:
            return orjson.loads(data)
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
    except ValueError as error:
        raise Damage("bad_json", f"not JSON: {error}") from None
    return value


def as_text(value: Any) -> str | None:
    """Convert a JSON value to text: strings unchanged, null to None, everything else to JSON.

    Raises:
        Damage: It is nested too deep, or holds a number that no double holds.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Number):
        return value.text
    try:
        return orjson.dumps(value, default=_refuse).decode()
    except TypeError:
        pass  # an integer of more than 64 bits, or nested too deep for orjson
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise Damage("bad_json", "a value is nested too deep") from None
    except ValueError:
        raise Damage("bad_json", "a list or an object holds a number that no double holds") from None


def _number(text: str) -> float:
    number = Number(text)
    number.text = text
    return number


def _refuse(value: Any) -> Any:
    raise TypeError(value)
