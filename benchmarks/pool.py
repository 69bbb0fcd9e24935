"""What the driver's loop costs for each lease, by the number of actors, up to a thousand on one machine.

    python -m benchmarks.pool                               # some three minutes on 2 cores
    python -m benchmarks.pool --actors 100 --rate 50

The pool is the one of `mlake embed`, and so is what is done with each outcome, but for the commits. Its actors share
two processes, in which each has a thread that waits; so the driver sees as many actors as it is told, and makes as many
calls. The rate says how many leases are to end in a second, of all actors together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from rich.console import Console
from rich.table import Table

import cluster.actors
from benchmarks.commits import table_of
from cluster.actors import ActorPool
from cluster.metrics import ExportingDisplay, RunMetrics
from cluster.placement import PoolSize
from cluster.session import connect
from cluster.slots import ActorSlot, _WorkerActor
from pipelines.embedding.column_plan import ColumnPlan
from pipelines.embedding.plan import EmbedPlan
from pipelines.embedding.run import EmbedRun
from schemas.config import EmbedConfig, StorageConfig
from schemas.records import EmbedProgress, Lease, LeaseResult, Shard, ShardCount, StageSeconds, WorkerCounters

_PROCESSES, _IN_FLIGHT, _SHARDS_OF_LEASE = 2, 2, 8


class Waiting:
    """A worker that waits, and answers as an `Embedder` does."""

    def __init__(self, wait_s: float) -> None:
        """Wait so long for each lease."""
        self._wait_s, self._rows = wait_s, 0

    def run(self, lease: Lease) -> LeaseResult:
        """Wait, and return a result of the usual size."""
        time.sleep(self._wait_s)
        self._rows += len(lease.shards)
        counts = tuple(ShardCount(shard, 1, 0) for shard in lease.shards)
        worker = WorkerCounters("one", self.progress())
        return LeaseResult(counts, ("x" * 390,), (), 8, seconds=StageSeconds(), worker=worker)

    def progress(self) -> dict[str, int]:
        """Return counters as many as an `Embedder` has."""
        names = ("units", "batches", "padding_units", "up_ms", "idle_ms", "busy_ms", "waited_ms", "read_bytes")
        return {"rows": self._rows, "rejects": 0, "written_bytes": 0} | dict.fromkeys(names, 1)


class NoCommits:
    """Stands in for the committer, whose cost `benchmarks.commits` measures."""

    shards = rows = rejects = commits = 0
    commit_s = 0.0
    damaged: frozenset[int] = frozenset()

    def add(self, result: LeaseResult) -> None:
        """Count it."""
        self.shards += len(result.counts)

    def poll(self) -> None:
        """Do nothing."""

    def flush(self) -> list[Shard]:
        """Embed nothing again."""
        return []


class NoRecord:
    """Stands in for the run's entry in the journal."""

    run = "r"

    def beat(self) -> None:
        """Do nothing."""

    def end(self, state: str, summary: dict[str, Any]) -> None:
        """Do nothing."""


class Watch:
    """A display that notes the CPU time of this process at each call."""

    def __init__(self) -> None:
        """Note nothing yet."""
        self.seen: list[tuple[float, float, int]] = []

    def say(self, text: str) -> None:
        """Print it."""
        print(text)

    def show(self, progress: EmbedProgress, *, is_last: bool = False) -> None:
        """Note time, CPU time and shards done."""
        self.seen.append((time.perf_counter(), time.process_time(), progress.shards))


def shared_slots(make_worker: Any, size: PoolSize, metric_tags: Any = None) -> list[ActorSlot]:
    """Start the slots of a pool in two processes."""
    threads = -(-size.actors * size.in_flight // _PROCESSES)
    options: dict[str, Any] = {"num_cpus": 0.1, "max_concurrency": threads, "concurrency_groups": {"watch": 4}}
    actor_class = ray.remote(**options)(_WorkerActor)
    actors = [actor_class.remote(make_worker, ".", None) for _ in range(_PROCESSES)]
    return [ActorSlot(actors[number % _PROCESSES]) for number in range(size.actors)]


def measure(table: Any, config: EmbedConfig, actors: int, rate: float, seconds: float) -> tuple[float, float, float]:
    """Return leases a second, CPU ms of the driver a lease, and its CPU seconds a second."""
    leases = max(round(rate * seconds), 4 * actors)
    shards = tuple(Shard(f"/s/{number:08d}.jsonl", 100, "1", "jsonl") for number in range(leases * _SHARDS_OF_LEASE))
    wait_s = _IN_FLIGHT * actors / rate
    size = PoolSize(actors, 0.1, 0.0, 1, _IN_FLIGHT)
    watch = Watch()
    plan = EmbedPlan(shards, shards, table, table.space, ColumnPlan(pa.schema([])))
    run = EmbedRun(config, plan, table, NoRecord(), ExportingDisplay(watch, RunMetrics("embed", "r")))
    run._committer = NoCommits()
    with ActorPool[Lease, LeaseResult](partial(Waiting, wait_s), size) as pool:
        run._embed(pool, lambda: False, time.time())
    shown = np.array([each for each in watch.seen if 0.1 <= each[2] / len(shards) <= 0.8])
    passed_s, spent_s, done = shown[-1] - shown[0]
    ended = done / _SHARDS_OF_LEASE
    return ended / passed_s, 1e3 * spent_s / ended, spent_s / passed_s


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--rate", type=float, nargs="+", default=[50, 200], help="leases a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    shown = Table("actors", "leases/s asked for", "leases/s", "CPU ms a lease", "driver's cores")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, connect():
        table = table_of(f"{folder}/t.lance", 1, StorageConfig())
        config = EmbedConfig.model_validate(
            {
                "shards": "/s/*",
                "table": table.uri,
                "input": {"text": "text"},
                "encoder": {"name": "wordllama"},
                "limits": {"lease_shards": _SHARDS_OF_LEASE},
            }
        )
        for actors in args.actors:
            for rate in args.rate:
                cluster.actors.start_slots = shared_slots  # type: ignore[assignment]
                figures = measure(table, config, actors, rate, args.seconds)
                shown.add_row(
                    f"{actors:,}", f"{rate:g}", *(f"{x:,.{d}f}" for x, d in zip(figures, (0, 2, 2), strict=True))
                )
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
