"""The cost of a commit by the number of shards that the table holds already, on a local disk and on S3.

    python -m benchmarks.commits                              # some five minutes on 2 cores
    python -m benchmarks.commits --known 1000 --commits 10    # seconds

A table of so many known shards, one row each, is written in a few fragments. Then a run commits 128 new shards at a
time, as `mlake embed` does: 4 leases a commit, the ledger kept in between, small fragments merged beside it. `first` is
the run's first commit, which reads the ledger. The others are given as medians, and as means that include the merges.
Requests are system calls that read or write on a local disk, and HTTP requests on S3 (SeaweedFS behind a proxy that
counts; its time is part of the measurement, and its CPU, since it is a thread of this process).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.ledger import Ledger, commit_leases
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from schemas.columns import Ladder, Space
from schemas.config import StorageConfig
from schemas.records import LeaseResult, Shard, ShardCount

WIDTH = 8
LEASES, SHARDS_OF_LEASE = 4, 32
KNOWN_OF_FRAGMENT = 1 << 18
Count = Callable[[], tuple[int, int]]  # requests and bytes so far


@dataclass(frozen=True)
class Cost:
    """What one commit took."""

    seconds: float
    cpu_s: float
    requests: int
    nbytes: int


def a_shard(number: int) -> Shard:
    """Name a shard that no file stands for."""
    return Shard(f"/some/folder/of/shards/{number:08d}.tar", 100_000_000, "1", "webdataset")


def rows_of(shards: list[Shard]) -> pa.RecordBatch:
    """Return one unit row for each shard."""
    x_BD = np.zeros((len(shards), WIDTH), np.float16)
    x_BD[:, 0] = 1
    ids = pa.array([shard.uri for shard in shards])
    return pa.RecordBatch.from_arrays(
        [ids, pa.array([shard.id for shard in shards], pa.int64()), to_arrow(x_BD)], names=["id", "shard", "vector"]
    )


def lease_of(table: VectorTable, numbers: range) -> LeaseResult:
    """Write the rows of some shards as one uncommitted fragment."""
    shards = [a_shard(number) for number in numbers]
    counts = tuple(ShardCount(shard, 1, 0) for shard in shards)
    return LeaseResult(counts, write_fragments(table, [rows_of(shards)]), (), len(shards))


def table_of(uri: str, known: int, storage: StorageConfig) -> VectorTable:
    """Make a table that holds so many shards, in few fragments, with their records."""
    space = Space(encoder="benchmark", revision="1", ladder=Ladder(dims=(WIDTH,)))
    table, ledger = create_table(uri, space, pa.schema([]), storage), None
    for start in range(0, known, KNOWN_OF_FRAGMENT):
        numbers = range(start, min(start + KNOWN_OF_FRAGMENT, known))
        ledger = ledger or Ledger(table)
        commit_leases(table, [lease_of(table, numbers)], "past", ledger=ledger)
    return table


def commit_costs(table: VectorTable, known: int, commits: int, count: Count) -> list[Cost]:
    """Commit 128 new shards at a time; only the commits and merges are measured."""
    costs: list[Cost] = []
    ledger: Ledger | None = None
    for number in range(commits):
        first = known + number * LEASES * SHARDS_OF_LEASE
        leases = [
            lease_of(table, range(start, start + SHARDS_OF_LEASE))
            for start in range(first, first + LEASES * SHARDS_OF_LEASE, SHARDS_OF_LEASE)
        ]
        began, cpu_s, before = time.perf_counter(), time.process_time(), count()
        ledger = ledger or Ledger(table)
        committed = commit_leases(table, leases, "run", ledger=ledger)
        ledger.merge_small()
        after, cpu_s = count(), time.process_time() - cpu_s
        costs.append(Cost(time.perf_counter() - began, cpu_s, after[0] - before[0], after[1] - before[1]))
        assert committed.shards == LEASES * SHARDS_OF_LEASE
    return costs


def local_io() -> tuple[int, int]:
    """Return the reads and writes of this process so far, and their bytes."""
    values = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(values["syscr"]) + int(values["syscw"]), int(values["rchar"]) + int(values["wchar"])


@contextmanager
def store(name: str, folder: Path) -> Iterator[tuple[str, StorageConfig, Count]]:
    """Open a store; yield the address of a folder in it, its config, and what counts its requests."""
    if name == "local":
        yield str(folder), StorageConfig(), local_io
        return
    # The tests' server and proxy: only this benchmark needs them outside the tests.
    from tests.support.fault_proxy import FaultProxy, Faults
    from tests.support.s3 import REGION, running_s3

    with running_s3(folder) as server, FaultProxy(server.endpoint, Faults(rate=0.0)) as proxy:
        os.environ.update(server.environment())
        server.client().create_bucket(Bucket="commits")
        config = StorageConfig(endpoint=proxy.endpoint, region=REGION)
        yield "s3://commits", config, lambda: (proxy.counts["none"], proxy.nbytes)


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, nargs="+", default=[1_000, 30_000, 1_000_000])
    parser.add_argument("--commits", type=int, default=40)
    parser.add_argument("--stores", nargs="+", default=["local", "s3"], choices=["local", "s3"])
    args = parser.parse_args()
    names = ("median ms", "mean", "CPU ms", "mean", "requests", "mean", "kB", "mean")
    shown = Table("store", "known shards", "first", *names)
    for name in args.stores:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, store(name, Path(folder)) as opened:
            at, config, count = opened
            for known in args.known:
                table = table_of(f"{at}/t{known}.lance", known, config)
                first, *others = commit_costs(table, known, args.commits, count)
                columns = [
                    [cost.seconds * 1e3 for cost in others],
                    [cost.cpu_s * 1e3 for cost in others],
                    [cost.requests for cost in others],
                    [cost.nbytes / 1e3 for cost in others],
                ]
                figures = [f"{f(values):,.0f}" for values in columns for f in (statistics.median, statistics.fmean)]
                shown.add_row(
                    name, f"{known:,}", f"{first.seconds * 1e3:,.0f} ms, {first.nbytes / 1e6:,.1f} MB", *figures
                )
    Console(width=140).print(shown)


if __name__ == "__main__":
    main()
