"""Values that JSON has no form for, in every place where a table may hold them."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal
from pathlib import Path

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


def test_every_verb_prints_json_through_here_so_that_nothing_reaches_the_terminal_raw() -> None:
    assert json_line({"text": "\x9b2J\u202e"}) == '{"text": "\\u009b2J\\u202e"}'
    verbs = Path(__file__).parents[3] / "jobs"
    other = re.compile(r"print\((json\.dumps|[\w.()]*\.(to_json|model_dump_json)\()")
    assert [path.name for path in verbs.glob("*.py") if other.search(path.read_text(encoding="utf-8"))] == []
