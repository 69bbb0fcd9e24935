"""Progress: what the encoders' busy share says."""

from __future__ import annotations

import pytest

from pipelines.reports.progress import BusyMeter


def test_a_busy_share_is_of_the_last_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 8.0])
    monkeypatch.setattr("pipelines.reports.progress.time.monotonic", lambda: next(clock))
    meter = BusyMeter()
    assert meter.share(1.0) == 0
    assert meter.share(3.0) == pytest.approx(0.75)
    assert meter.share(4.0) == pytest.approx(0.25)
