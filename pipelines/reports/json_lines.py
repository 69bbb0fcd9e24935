"""Write a record as one line of JSON for programs. Every `--json` and `--log json` prints through here.

Owns how values that JSON has no form for are written. Owns no stored file: those are `schemas.stored`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping

import numpy as np

from schemas.stored import Stored


def json_line(record: Mapping[str, object]) -> str:
    """Return a record as JSON that every reader takes.

    NaN and infinity become null, bytes base64, and times, decimals and the like their text.

    Example:
        >>> json_line({"id": "a", "score": float("nan"), "picture": b"png"})
        '{"id": "a", "score": null, "picture": "cG5n"}'
    """
    return json.dumps(_plain(record), allow_nan=False)


def stored_line(record: Stored) -> str:
    """Return a record that is also stored in a file, with the number of its format, as one line for programs."""
    return json_line(json.loads(record.to_json()))


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, (str, int)) else str(value)
