"""Values that JSON has no form for, in every place where a table may hold them."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import numpy as np

from pipelines.reports.json_lines import json_line


def test_every_value_becomes_json() -> None:
    record = {
        "nan": float("nan"),
        "deep": [{"inf": -np.inf, "b": b"\xff"}, ("k", np.float32("nan"))],
        "time": dt.datetime(2026, 1, 2, 3),
        "decimal": Decimal("1.50"),
        "kept": [1, True, None, "\ud800", 0.5, np.int64(7), 2**70],
        3: "key",
    }
    assert json.loads(json_line(record), parse_constant=lambda name: f"not JSON: {name}") == {  # type: ignore[arg-type]
        "nan": None,
        "deep": [{"inf": None, "b": "/w=="}, ["k", None]],
        "time": "2026-01-02 03:00:00",
        "decimal": "1.50",
        "kept": [1, True, None, "\ud800", 0.5, 7, 2**70],
        "3": "key",
    }
