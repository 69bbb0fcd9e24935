"""Metrics of a run are gauges named after the numbers of its progress."""

from __future__ import annotations

from cluster.metrics import RunMetrics


def test_numbers_become_gauges_and_words_do_not(local_ray: None) -> None:
    metrics = RunMetrics("embed", "run-1")
    metrics.set({"rows": 3, "encoder_busy": 0.5, "bound_by": "encode"})
    metrics.set({"rows": 4})
    assert {gauge.info["name"] for gauge in metrics._gauges.values()} == {"lake_rows", "lake_encoder_busy"}
    assert metrics._gauges["rows"].info["default_tags"] == {"job": "embed", "run": "run-1"}
