"""metrics.json keeps every number; one that is not finite is null."""

from __future__ import annotations

import json
import math

import pytest

from schemas.config import EvaluateConfig
from schemas.errors import InputError
from schemas.metrics import CascadePointRecord, CascadeRecord, IntervalRecord, MetricsFile

MEAN = IntervalRecord(mean=0.5, low=0.4, high=0.6)
POINT = CascadePointRecord(thresholds=(math.inf,), accuracy=MEAN, above_full=MEAN, dims=MEAN, cumulative=MEAN)
METRICS = MetricsFile(
    config=EvaluateConfig.model_validate({"folder": "f", "systems": [{"name": "a", "database": "t.lance"}]}),
    rows_searched=10,
    queries=2,
    rows=(),
    corrupted=(),
    adaptive=CascadeRecord(dims=(4, 8), alone=(MEAN, MEAN), points=(POINT,), chosen=0, held_out=1, queries=1),
    searches=(),
    notes=("n",),
)


def test_a_threshold_that_is_never_reached_is_null() -> None:
    written = METRICS.to_json()
    assert json.loads(written)["adaptive"]["points"][0]["thresholds"] == [None]
    read = MetricsFile.from_json(written, "m")
    assert read.config == METRICS.config
    assert read.to_json() == written


def test_a_newer_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"m: metrics\.json of an evaluation has format 2"):
        MetricsFile.from_json('{"format": 2}', "m")
