"""Curves for TensorBoard, and throughput."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.training.history import Curves, EpochResult, Throughput
from tests.support.training_workers import as_worker


def test_curves_are_written_for_every_dim(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = Curves(tmp_path)
    for epoch in (1, 2):
        curves.write(epoch * 5, EpochResult(epoch, 1.5, {4: 0.5, 8: 1.0}, {4: 0.25, 8: 0.75}, 1.0, 9.0), "top-1", 0.1)
    curves.close()
    events = EventAccumulator(str(tmp_path / "curves"))
    events.Reload()
    names = {"loss", "lr", "samples per second", "top-1/4", "top-1/8", "loss by dim/4", "loss by dim/8"}
    assert set(events.Tags()["scalars"]) == names
    assert [(one.step, one.value) for one in events.Scalars("top-1/8")] == [(5, 0.75), (10, 0.75)]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    curves = Curves(None)
    curves.write(1, EpochResult(1, 1.0, {}, {}, 1.0, 1.0), "top-1", 0.1)
    curves.close()
    assert not list(tmp_path.iterdir())


def test_workers_report_at_the_same_steps() -> None:
    with as_worker(1, 2):
        throughput = Throughput(8)
        assert [step for step in range(1, 61) if throughput.is_due(step)] == [20, 40, 60]
    assert Throughput(8).per_second(7) == 0.0
