"""The metrics that runs export to Prometheus: the one table of their names.

Owns name, kind, unit, help and tags of each. `cluster.metrics` exports them; the dashboard and the alert rules of
`cluster.deploy` ask for them by these names, and a test compares the two. `schemas/metrics.py` is another thing: the
file of an evaluation.

Ray puts `ray_` before every name and `_total` behind a counter. It adds the tags `WorkerId` and `NodeAddress`, so that
each actor has series of its own. There is no histogram: Ray rebuilds the sum of one from its buckets, which makes every
mean wrong. Two counters give the mean: seconds of commits over commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_OF_RUN = ("job", "run")


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: Name without Ray's prefix and suffix.
        kind: A counter only grows; a gauge is a value of now.
        unit: What it counts, in the singular base unit.
        help: What it means, for the metrics endpoint.
        tags: Keys of its tags.
        counter: Key of the worker's counters that it exports; empty for a metric of the driver.
        scale: Factor from that counter to the unit.
    """

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    help: str
    tags: tuple[str, ...] = _OF_RUN
    counter: str = ""
    scale: float = 1.0

    @property
    def exported(self) -> str:
        """The name in Prometheus."""
        return f"ray_{self.name}" + "_total" * (self.kind == "counter")


def _of_actor(name: str, unit: str, text: str, counter: str, tags: tuple[str, ...] = _OF_RUN) -> MetricSpec:
    scale = {"ms": 1e-3, "millionths": 1e-6}.get(counter.rpartition("_")[2], 1.0)
    return MetricSpec(f"lake_{name}", "counter", unit, text, tags, counter, scale)


def _of_run(name: str, unit: str, text: str, kind: Literal["counter", "gauge"] = "counter") -> MetricSpec:
    return MetricSpec(f"lake_{name}", kind, unit, text)


_ALL = (
    _of_actor("rows", "row", "Rows that the actor has encoded; a shard that is tried again counts again.", "rows"),
    _of_actor("units", "token or image", "Tokens of texts, or images, that the actor has encoded.", "units"),
    _of_actor("cut_texts", "text", "Texts longer than the encoder takes, of which it got the beginning.", "cut_texts"),
    _of_actor("cut_tokens", "token", "Tokens of those texts that it did not get.", "cut_tokens"),
    _of_actor("served_tokens", "token", "Tokens of which a server was asked for vectors.", "served_tokens"),
    _of_actor("served_cost", "currency", "What a server was paid, by the price of its file.", "served_cost_millionths"),
    _of_actor("batches", "batch", "Batches that the encoder has been given.", "batches"),
    _of_actor("padding_units", "token", "Tokens of padding that the encoder has worked on.", "padding_units"),
    _of_actor("rejects", "sample", "Samples that could not be embedded, by reason.", "rejects/", (*_OF_RUN, "reason")),
    _of_actor("read_bytes", "byte", "Bytes of the shards that the actor has read to their end.", "read_bytes"),
    _of_actor("written_bytes", "byte", "Bytes of the fragments that the actor has written.", "written_bytes"),
    _of_actor("encoder_busy_seconds", "second", "Time in which the encoder worked.", "busy_ms"),
    _of_actor("encoder_wait_seconds", "second", "Time in which the encoder waited for its lease's input.", "waited_ms"),
    _of_actor("actor_idle_seconds", "second", "Time in which the actor had no lease.", "idle_ms"),
    _of_actor("actor_up_seconds", "second", "Time since the actor's encoder was loaded.", "up_ms"),
    _of_run("planned_shards", "shard", "Shards that the run is to embed.", "gauge"),
    _of_run("committed_shards", "shard", "Shards whose rows are visible."),
    _of_run("committed_rows", "row", "Rows that are visible."),
    _of_run("commits", "commit", "Commits to the table."),
    _of_run("commit_seconds", "second", "Time spent in commits."),
    _of_run("failed_leases", "lease", "Tries of leases that failed; each is tried again, split or given up."),
    _of_run("given_up_shards", "shard", "Shards that the run gave up."),
    _of_run("open_leases", "lease", "Leases that wait or are worked on.", "gauge"),
    _of_run("actors", "actor", "Encoder actors of the run, those that are not up yet included.", "gauge"),
    _of_run("pending_actors", "actor", "Encoder actors that are not up: no room, starting, or loading.", "gauge"),
)

METRICS: Mapping[str, MetricSpec] = {metric.name: metric for metric in _ALL}
"""By name without Ray's prefix and suffix, as in `lake_rows`."""

BY_COUNTER: Mapping[str, MetricSpec] = {metric.counter: metric for metric in _ALL if metric.counter}
"""The metrics of actors, by the key of a worker's counters. A key that ends in `/` takes the rest as a reason."""
