"""What everything around the encoder costs, by the number of actors: does a run stay linear?

    python -m benchmarks.scale                              # some ten minutes on 2 cores
    python -m benchmarks.scale --actors 1 4 --seconds 10
    python -m benchmarks.scale --shards 100000              # the driver's CPU and memory instead

The encoder only waits, a fixed time for each batch. So one machine holds more actors than it has cores, and what is
lost against the waits alone is overhead: of actors, driver, commits and Ray. Rates are taken between the moment when
all actors have done a batch and the moment when the first has done its last; start and end of a run are left out.
Choose the wait so that `cores` stays under half of the machine's; else the machine is what is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import threading
import time
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.waiting import ACTORS, FOLDER, WAIT_S
from cluster.session import connect
from jobs import embed
from schemas.config import EmbedConfig

ROWS_OF_SHARD, SHARDS_OF_LEASE, BATCH = 4, 8, 8
ROWS_OF_LEASE = ROWS_OF_SHARD * SHARDS_OF_LEASE
_SAMPLE_S, _CLUSTER_EVERY = 0.5, 4


@dataclass(frozen=True)
class Run:
    """What one run showed between its start and its end.

    Attributes:
        actors: How many.
        wait_s: Seconds of each batch of 8 rows.
        seconds: Length of the time that is looked at.
        rows_per_s: Rows encoded in it.
        linear: Share of what the waits alone allow.
        cores: CPU seconds a second, of all processes of the run.
        driver_cores: CPU seconds a second of the driver.
        lease_ms: CPU ms of the driver a lease, everything included.
        row_ms: The same a row.
        commit_ms: The same a commit.
        leases: Leases done in it.
        commits: Commits done in it, by the run's mean.
    """

    actors: int
    wait_s: float
    seconds: float
    rows_per_s: float
    linear: float
    cores: float
    driver_cores: float
    lease_ms: float
    row_ms: float
    commit_ms: float
    leases: float
    commits: float


class Sampler:
    """Notes the CPU time of this process and of its children, and its memory, twice a second."""

    def __init__(self) -> None:
        """Start its thread."""
        self.times: list[float] = []
        self.driver: list[float] = []
        self.cluster: list[tuple[float, float]] = []
        self.peak_bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampler:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self._end.set()
        self._thread.join()

    def between(self, began: float, ended: float) -> tuple[float, float]:
        """Return the CPU seconds of the driver, and of all processes, between two times."""
        times, cluster = zip(*self.cluster, strict=True)
        driver = np.diff(np.interp([began, ended], self.times, self.driver))[0]
        first, last = max(0, bisect_left(times, began)), max(0, bisect_left(times, ended) - 1)
        share = (ended - began) / max(1e-9, times[last] - times[first])
        return float(driver), float(driver + (cluster[last] - cluster[first]) * share)

    def _sample(self) -> None:
        me, round_ = psutil.Process(), 0
        while not self._end.wait(_SAMPLE_S):
            self.times.append(time.time())
            self.driver.append(time.process_time() - time.thread_time())  # without this thread
            self.peak_bytes = max(self.peak_bytes, me.memory_info().rss)
            round_ += 1
            if round_ % _CLUSTER_EVERY == 0:
                spent = 0.0
                for child in me.children(recursive=True):
                    try:
                        spent += sum(child.cpu_times()[:2])
                    except psutil.NoSuchProcess:
                        continue
                self.cluster.append((time.time(), spent))


def write_shards(folder: Path, count: int) -> None:
    """Write so many shards of a few short texts."""
    folder.mkdir()
    lines = "".join(f'{{"text": "a text, number {row}"}}\n' for row in range(ROWS_OF_SHARD))
    for number in range(count):
        (folder / f"{number:07d}.jsonl").write_text(lines)


def config_of(folder: Path, actors: int) -> EmbedConfig:
    """Return the job: actors that take next to no CPU."""
    return EmbedConfig.model_validate(
        {
            "shards": str(folder / "shards"),
            "table": str(folder / "t.lance"),
            "input": {"text": "text"},
            "encoder": {"class": "benchmarks.waiting:WaitingEncoder", "batch": BATCH, "reference_samples": 0},
            "cluster": {"actors": actors, "cpus_per_actor": 0.05, "decode_threads": 1},
            "limits": {"lease_shards": SHARDS_OF_LEASE},
            "reuse": {"hashes": "off"},
        }
    )


def prepare(folder: Path, actors: int, wait_s: float) -> None:
    """Tell the encoders of the next cluster how long they wait, and where they write."""
    (folder / "done").mkdir()
    os.environ.update({FOLDER: str(folder / "done"), WAIT_S: str(wait_s), ACTORS: str(actors)})


def measure(folder: Path, actors: int, wait_s: float, seconds: float) -> Run:
    """Run a job whose encoders wait for about so many seconds."""
    lease_s = wait_s * ROWS_OF_LEASE / BATCH
    write_shards(folder / "shards", actors * max(4, round(seconds / lease_s)) * SHARDS_OF_LEASE)
    prepare(folder, actors, wait_s)
    with Sampler() as sampler, connect():
        summary = embed.run(config_of(folder, actors), log="json")
    done = [np.loadtxt(file, ndmin=2) for file in (folder / "done").iterdir()]
    began, ended = float(max(each[0, 0] for each in done)), float(min(each[-1, 0] for each in done))
    rows = sum(float(np.diff(np.interp([began, ended], each[:, 0], each[:, 1].cumsum()))[0]) for each in done)
    driver_s, all_s = sampler.between(began, ended)
    passed = ended - began
    leases, commits = rows / ROWS_OF_LEASE, summary.commits * rows / summary.rows
    return Run(
        actors,
        wait_s,
        passed,
        rows / passed,
        rows / passed / (actors * BATCH / wait_s),
        all_s / passed,
        driver_s / passed,
        driver_s * 1e3 / leases,
        driver_s * 1e3 / rows,
        driver_s * 1e3 / commits,
        leases,
        commits,
    )


def measure_driver(folder: Path, shards: int) -> str:
    """Run a job of many shards without waits; say what its driver took."""
    write_shards(folder / "shards", shards)
    prepare(folder, 2, 0.0)
    before_s, before_bytes = time.process_time(), psutil.Process().memory_info().rss
    began = time.perf_counter()
    with Sampler() as sampler, connect():
        config = config_of(folder, 2)
        limits = config.limits.model_copy(update={"lease_shards": 256})
        summary = embed.run(config.model_copy(update={"limits": limits}), log="json")
    spent_s, grown = time.process_time() - before_s, sampler.peak_bytes - before_bytes
    return (
        f"{shards:,} shards, {summary.leases:,} leases, {summary.commits:,} commits, {time.perf_counter() - began:,.0f}"
        f" s: the driver took {spent_s:,.1f} s of CPU and grew by {grown / 1e6:,.0f} MB from {before_bytes / 1e6:,.0f}"
    )


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--wait", type=float, default=0.5, help="seconds of a batch; four batches are a lease")
    parser.add_argument("--seconds", type=float, default=40.0, help="about how long each run is looked at")
    parser.add_argument("--shards", type=int, help="measure the driver over so many shards instead")
    parser.add_argument("--runs", type=Path, help="append each run to this file, for benchmarks.simulate")
    args = parser.parse_args()
    console = Console(width=140)
    if args.shards:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            console.print(measure_driver(Path(folder), args.shards))
        return
    shown = Table("actors", "rows/s", "of linear", "cores", "driver's cores", "CPU ms a lease", "a row", "a commit")
    for actors in args.actors:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            run = measure(Path(folder), actors, args.wait, args.seconds)
        figures = (run.rows_per_s, run.linear, run.cores, run.driver_cores, run.lease_ms, run.row_ms, run.commit_ms)
        formats = (",.1f", ".3f", ".2f", ".3f", ",.1f", ".2f", ",.0f")
        shown.add_row(str(actors), *(format(*pair) for pair in zip(figures, formats, strict=True)))
        if args.runs:
            with args.runs.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(run)) + "\n")
    console.print(shown)


if __name__ == "__main__":
    main()
