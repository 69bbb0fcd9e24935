"""Prometheus metrics, exported by Ray from the driver of a run and from each of its actors.

Owns how numbers become metrics. The table of their names is `schemas.run_metrics`. Counters are exported by what they
have grown, so that one that is read often is not counted twice. Ray exports no counter that is still zero, so a counter
appears with its first value: an alert asks for the value, which starts anew with each run, and not for its increase.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

from ray.util.metrics import Counter, Gauge

from schemas.records import EmbedProgress
from schemas.run_metrics import BY_COUNTER, METRICS, MetricSpec


class _Exporter:
    """Metrics of one process, made when they are first used."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._tags = dict(tags)
        self._made: dict[str, Counter | Gauge] = {}
        self._exported: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def export(self, spec: MetricSpec, value: float, reason: str = "") -> None:
        """Set a gauge, or add to a counter what it has grown since the last call.

        Args:
            spec: The metric.
            value: Its value; of a counter, all that was counted so far.
            reason: Value of the tag `reason`, for a metric that has it.
        """
        tags = {key: self._tags[key] for key in spec.tags if key != "reason"}
        tags |= {"reason": reason} if "reason" in spec.tags else {}
        with self._lock:
            if spec.name not in self._made:
                kind = Counter if spec.kind == "counter" else Gauge
                self._made[spec.name] = kind(spec.name, description=spec.help, tag_keys=spec.tags)
            metric = self._made[spec.name]
            if isinstance(metric, Gauge):
                metric.set(value, tags=tags)
                return
            key = (spec.name, reason)
            grown = value - self._exported.get(key, 0.0)
            if grown > 0:
                metric.inc(grown, tags=tags)
                self._exported[key] = value


class WorkerMetrics:
    """The counters of a worker, exported from the actor that it lives in."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        """Export nothing yet; `tags` are `job` and `run`."""
        self._exporter = _Exporter(tags)

    def update(self, counters: Mapping[str, int]) -> None:
        """Export what `progress()` of a worker returns; counters without a metric are left out."""
        for key, value in counters.items():
            name, slash, reason = key.partition("/")
            spec = BY_COUNTER.get(name + slash)
            if spec is not None:
                self._exporter.export(spec, value * spec.scale, reason)


class RunMetrics:
    """The metrics of a run that its driver knows.

    Example:
        >>> RunMetrics("embed", "20261123T175000-1a2b3c").update(EmbedProgress(open_leases=3))  # doctest: +SKIP
    """

    def __init__(self, job: str, run: str) -> None:
        """Export nothing yet."""
        self._exporter = _Exporter({"job": job, "run": run})

    def update(self, progress: EmbedProgress) -> None:
        """Export how far the run is."""
        for name, value in (
            ("planned_shards", progress.shards_total),
            ("committed_shards", progress.landed),
            ("committed_rows", progress.landed_rows),
            ("commits", progress.commits),
            ("commit_seconds", progress.commit_s),
            ("failed_leases", progress.failed_leases),
            ("given_up_shards", progress.failed),
            ("open_leases", progress.open_leases),
            ("actors", progress.actors),
            ("pending_actors", progress.pending_actors),
        ):
            self._exporter.export(METRICS[f"lake_{name}"], value)


class _Display(Protocol):
    def say(self, text: str) -> None: ...

    def show(self, progress: EmbedProgress, *, is_last: bool = False) -> None: ...


class ExportingDisplay:
    """A display of a run that exports the progress which it shows."""

    def __init__(self, display: _Display, metrics: RunMetrics) -> None:
        """Export nothing yet."""
        self._display, self._metrics = display, metrics
        self.say = display.say

    def show(self, progress: EmbedProgress, *, is_last: bool = False) -> None:
        """Show how far the run is, and export it."""
        self._display.show(progress, is_last=is_last)
        self._metrics.update(progress)
