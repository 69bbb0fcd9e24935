"""The numbers that stand for results: the order of metrics, cells, sentences, and what is stored."""

from __future__ import annotations

import json

import orjson
import pytest

from pipelines.evaluation.by_dim import Measurement
from pipelines.evaluation.results import Results, as_json, by_system, cell, describe_searches, dims_of, metrics_of
from pipelines.evaluation.retrieval import SearchResult, SearchSetting
from pipelines.shortlist.bootstrap import Interval
from schemas.config import EvaluateConfig


def row(system: str, dim: int, metric: str, mean: float = 0.5, *, made: bool = True) -> Measurement:
    return Measurement(system, dim, metric, Interval(mean, mean - 0.02, mean + 0.02), made)


def search(kind: str, dims: tuple[int, ...], above: float, mflops: float) -> SearchResult:
    value = Interval(0.7 + above, 0.6, 0.8)
    above_full = Interval(above, above - 0.002, above + 0.002)
    return SearchResult(
        SearchSetting(kind, dims, (10,) * len(dims)), {"mAP@10": value}, {"mAP@10": above_full}, mflops, 1
    )


ROWS = [row("x", 8, "1-NN"), row("x", 4, "1-NN", made=False), row("y", 8, "linear"), row("x", 8, "1-NN, 2-shot")]


def test_rows_are_found_by_metric_system_and_dim() -> None:
    assert metrics_of(ROWS) == ["linear", "1-NN"]
    assert dims_of(ROWS) == [4, 8]
    assert by_system(ROWS, "1-NN") == {"x": {8: ROWS[0], 4: ROWS[1]}}
    assert [cell(ROWS[0]), cell(ROWS[1]), cell(None)] == ["0.500 ±0.020", "~0.500 ±0.020", ""]


def test_the_cheapest_search_that_is_as_good_is_described() -> None:
    searches = [
        search("single shot", (64,), 0.0, 100.0),
        search("adaptive", (8, 64), -0.001, 20.0),
        search("adaptive", (4, 64), -0.2, 5.0),
    ]
    said = describe_searches(searches)
    assert "8 (10) → 64 (10)" in said
    assert "5.0 times fewer FLOPs" in said


def test_json_holds_every_number_and_null_for_what_is_not_finite() -> None:
    config = EvaluateConfig.model_validate({"folder": "f", "systems": [{"name": "x", "database": "t"}]})
    results = Results(config, 9, 3, [], [row("x", 8, "1-NN", float("inf"))], [], None, [], ["a note"])
    stored = json.loads(orjson.dumps(as_json(results)))
    assert stored["rows"][0]["value"]["mean"] is None
    assert (stored["queries"], stored["notes"], stored["adaptive"]) == (3, ["a note"], None)
    assert stored["config"]["systems"][0]["name"] == "x"


@pytest.mark.parametrize("metric", ["mAP@10", "nDCG@5", "recall@100"])
def test_every_metric_has_a_place_in_the_order(metric: str) -> None:
    assert metrics_of([row("x", 8, metric)]) == [metric]
