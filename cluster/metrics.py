"""Prometheus metrics of a run, exported by Ray from the process that drives it."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge


class RunMetrics:
    """Gauges named `lake_<name>`, tagged with the job and the run.

    Example:
        >>> RunMetrics("embed", "20261123T175000-1a2b3c").set({"rows": 4096})  # doctest: +SKIP
    """

    def __init__(self, job: str, run: str) -> None:
        """Export nothing yet."""
        self._tags = {"job": job, "run": run}
        self._gauges: dict[str, Gauge] = {}

    def set(self, values: Mapping[str, object]) -> None:
        """Export the numbers among the values; others are left out."""
        for name, value in values.items():
            if not isinstance(value, int | float):
                continue
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"lake_{name}", description=f"{name} of a run", tag_keys=("job", "run"))
                self._gauges[name].set_default_tags(self._tags)
            self._gauges[name].set(value)
