"""What a run would do on a fleet that no machine here can hold: a simulation from measured unit costs.

    python -m benchmarks.simulate                           # a thousand actors, a million shards: two minutes
    python -m benchmarks.simulate --check runs.jsonl        # beside what `benchmarks.scale --runs runs.jsonl` measured

Events are leases that end, turns of the driver's loop, commits and merges, as `cluster.actors` and
`pipelines.embedding.committer` do them. The unit costs are in `Costs`, each with what measured it. Of the store it is
assumed that a request takes 30 ms, that one connection moves 200 MB/s, and that S3 takes 3,500 writes and 5,500 reads
a second of each prefix of keys. Actors do not slow each other down; nothing fails.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

IN_FLIGHT, COMMIT_SHARDS, COMMIT_AGE_S, TICK_S = 2, 256, 30.0, 0.25
LEVELS = {1 << 12: 64, 1 << 16: 64, 1 << 20: 256}
PART_BYTES = 5 << 20


@dataclass(frozen=True)
class Costs:
    """Measured on the machine of docs/benchmarks.md, in seconds and bytes.

    Attributes:
        second_s: CPU of the driver in each second (benchmarks.scale).
        actor_second_s: The same for each actor (benchmarks.scale).
        counters_s: CPU of asking an actor for its counters, twice a second, or 200 actors a second (benchmarks.pool).
        turn_s: CPU of a turn of the driver's loop (benchmarks.pool).
        turn_actor_s: The same for each actor (benchmarks.pool).
        lease_s: CPU of the driver for each lease that ends (benchmarks.scale).
        shard_s: CPU of the driver for each shard: listing, planning, records (benchmarks.scale --shards).
        commit_s: CPU of a commit (benchmarks.commits).
        commit_fragment_s: The same for each fragment of the table.
        commit_requests: Requests of a commit, one after the other (benchmarks.commits).
        fragment_bytes: What each fragment adds to a commit: 201 to the manifest, 120 to the transaction.
        gap_s: Time between two leases of an actor (benchmarks.scale).
        shard_bytes: Memory of the driver for each shard (benchmarks.scale --shards).
        fragment_memory: Memory of the driver for each fragment.
        request_s: A request to the store; assumed.
        store_bytes_per_s: What one connection moves; assumed.
    """

    second_s: float = 0.0061
    actor_second_s: float = 0.00043
    counters_s: float = 0.00017
    turn_s: float = 0.0001
    turn_actor_s: float = 1e-6
    lease_s: float = 0.0020
    shard_s: float = 120e-6
    commit_s: float = 0.009
    commit_fragment_s: float = 54e-6
    commit_requests: int = 24
    fragment_bytes: int = 321
    gap_s: float = 0.010
    shard_bytes: int = 3000
    fragment_memory: int = 3000
    request_s: float = 0.030
    store_bytes_per_s: float = 200e6


@dataclass(frozen=True)
class Job:
    """What is run.

    Attributes:
        actors: Encoder actors.
        leases: Leases.
        shards_of_lease: Shards of each.
        rows_of_lease: Rows of each.
        lease_s: Seconds that one takes an encoder.
        row_bytes: Bytes of a row in the table.
        lease_bytes: Bytes of a lease's shards.
        is_local: The table lies on a local disk: a commit waits for no request.
        outcomes_a_turn: Most outcomes of one turn of the loop.
        merge_bytes: Most bytes that are merged after one commit.
    """

    actors: int
    leases: int
    shards_of_lease: int
    rows_of_lease: int
    lease_s: float
    row_bytes: int
    lease_bytes: int
    is_local: bool = False
    outcomes_a_turn: int = 1 << 30
    merge_bytes: float = 4 << 30


@dataclass
class Seen:
    """What the simulation shows.

    Attributes:
        work_s: Until the last lease has ended.
        total_s: Until the last commit and merge have ended.
        busy: Share of the actors' time until then in which they encode.
        driver_s: CPU of the driver's loop and commits.
        commits: How many.
        longest_commit_s: The longest, merge included.
        fragments: At the end.
        merged_bytes: Rewritten.
    """

    work_s: float = 0.0
    total_s: float = 0.0
    busy: float = 0.0
    driver_s: float = 0.0
    commits: int = 0
    longest_commit_s: float = 0.0
    fragments: int = 0
    merged_bytes: float = 0.0


@dataclass
class Fragments:
    """The fragments of the table, by their rows."""

    job: Job
    sizes: dict[int, int] = field(default_factory=dict)

    def add(self, rows: int, count: int) -> None:
        """Add fragments of so many rows."""
        self.sizes[rows] = self.sizes.get(rows, 0) + count

    @property
    def fragments(self) -> int:
        """How many there are."""
        return sum(self.sizes.values())

    def merge(self) -> float:
        """Merge as `Ledger.merge_small` does; return the bytes that are rewritten."""
        for level, most in LEVELS.items():
            small = {rows: count for rows, count in self.sizes.items() if rows < level}
            if sum(small.values()) < most:
                continue
            allowed, merged = self.job.merge_bytes / self.job.row_bytes, 0.0
            for rows, count in sorted(small.items()):
                taken = min(count, int((allowed - merged) // rows))
                self.sizes[rows] -= taken
                merged += taken * rows
            self.sizes = {rows: count for rows, count in self.sizes.items() if count}
            whole = max(1, int(merged // level)) if merged else 0
            if whole:
                self.add(int(merged / whole), whole)
            return merged * self.job.row_bytes
        return 0.0


def simulate(job: Job, costs: Costs) -> Seen:
    """Run a job to its end."""
    seen, table = Seen(), Fragments(job)
    todo, held = job.leases, [0] * job.actors
    events: list[tuple[float, int, int]] = []  # time, kind (0: a lease ends, 1: the driver looks), actor
    ready: deque[int] = deque()
    waiting, oldest, committing_until, encoded_s, now = 0, 0.0, 0.0, 0.0, 0.0
    per_lease_s = job.lease_s + costs.gap_s

    def give(actor: int, at: float) -> None:
        nonlocal todo
        todo -= 1
        held[actor] += 1
        if held[actor] == 1:
            heapq.heappush(events, (at + per_lease_s, 0, actor))

    def commit(at: float, leases: int) -> float:
        table.add(job.rows_of_lease, leases)
        cpu_s = costs.commit_s + costs.commit_fragment_s * table.fragments
        moved = 0 if job.is_local else costs.fragment_bytes * table.fragments * 2  # read and written
        wait_s = 0.0 if job.is_local else costs.commit_requests * costs.request_s + moved / costs.store_bytes_per_s
        merged = table.merge()
        merge_s = 2 * merged / costs.store_bytes_per_s
        seen.merged_bytes += merged
        seen.driver_s += cpu_s
        seen.commits += 1
        seen.longest_commit_s = max(seen.longest_commit_s, cpu_s + wait_s + merge_s)
        return at + cpu_s + wait_s + merge_s

    for _ in range(IN_FLIGHT):
        for actor in range(job.actors):
            if todo:
                give(actor, 0.0)
    heapq.heappush(events, (0.0, 1, 0))
    left = job.leases
    while left:
        now, kind, actor = heapq.heappop(events)
        if kind == 0:
            ready.append(actor)
            held[actor] -= 1
            encoded_s += job.lease_s
            if held[actor]:
                heapq.heappush(events, (now + per_lease_s, 0, actor))
            continue
        ended = min(len(ready), job.outcomes_a_turn)
        turn_s = costs.turn_s + costs.turn_actor_s * job.actors + costs.lease_s * ended
        seen.driver_s += turn_s
        for actor in [ready.popleft() for _ in range(ended)]:
            left -= 1
            oldest = oldest if waiting else now
            waiting += 1
            if todo:
                give(actor, now + turn_s)
        is_due = waiting * job.shards_of_lease >= COMMIT_SHARDS or now - oldest >= COMMIT_AGE_S
        if waiting and is_due and now >= committing_until:
            committing_until, waiting = commit(now, waiting), 0
        next_end = next((time for time, kind, _ in events[:1] if kind == 0), now)
        pause_s = 0.0 if ready else min(TICK_S, max(0.0, next_end - now - turn_s))
        heapq.heappush(events, (now + turn_s + pause_s + 1e-6, 1, 0))
    seen.work_s = now
    seen.total_s = max(now, committing_until)
    if waiting:
        seen.total_s = commit(seen.total_s, waiting)
    asked_per_s = min(2 * job.actors, 200)
    seen.driver_s += now * (costs.second_s + costs.actor_second_s * job.actors + costs.counters_s * asked_per_s)
    seen.busy = encoded_s / (job.actors * now)
    seen.fragments = table.fragments
    return seen


def of_run(run: dict[str, float]) -> Job:
    """Return the job of a run of `benchmarks.scale`."""
    from benchmarks.scale import BATCH, ROWS_OF_LEASE, SHARDS_OF_LEASE

    lease_s = run["wait_s"] * ROWS_OF_LEASE / BATCH
    leases = round(run["leases"])
    return Job(int(run["actors"]), leases, SHARDS_OF_LEASE, ROWS_OF_LEASE, lease_s, 50, 1000, is_local=True)


def check(file: Path, costs: Costs) -> Table:
    """Return the prediction beside each measurement of a file."""
    from benchmarks.scale import ROWS_OF_LEASE

    shown = Table(
        "actors", "wait s", "rows/s: simulated", "measured", "error", "driver's cores: simulated", "measured", "error"
    )
    for run in map(json.loads, file.read_text().splitlines()):
        seen = simulate(of_run(run), costs)
        rate = seen.busy * run["actors"] * ROWS_OF_LEASE / of_run(run).lease_s
        cores = seen.driver_s / seen.work_s
        pairs = ((rate, run["rows_per_s"], ",.1f"), (cores, run["driver_cores"], ".4f"))
        figures = [x for got, wanted, f in pairs for x in (f"{got:{f}}", f"{wanted:{f}}", f"{got / wanted - 1:+.0%}")]
        shown.add_row(f"{run['actors']:.0f}", f"{run['wait_s']:g}", *figures)
    return shown


# A million shards of 10,000 rows, 768 dims in half precision, a thousand actors with a GPU each.
_IMAGES = Job(1000, 1_000_000, 1, 10_000, 10_000 / 2_000, 1_560, 1_000_000_000)
_TEXTS = Job(1000, 1_000_000 // 6, 6, 60_000, 60_000 / 10_000, 1_560, 60_000_000)
FLEETS = {
    "images, 2,000 a second and actor": _IMAGES,
    "with 200 actors": replace(_IMAGES, actors=200),
    "with shards of 100,000 rows": replace(
        _IMAGES, leases=100_000, rows_of_lease=100_000, lease_s=50.0, lease_bytes=10_000_000_000
    ),
    "with unbounded merges": replace(_IMAGES, merge_bytes=1e30),
    "texts, 10,000 a second and actor": _TEXTS,
    "texts, with unbounded merges": replace(_TEXTS, merge_bytes=1e30),
    "texts, one outcome a turn": replace(_TEXTS, outcomes_a_turn=1),
}
_ONE_OUTCOME_A_TURN = replace(Costs(), turn_actor_s=25e-6)  # benchmarks.pool, before all outcomes were taken at once


def fleet(name: str, job: Job, costs: Costs) -> list[str]:
    """Return a row of what a fleet would do."""
    seen = simulate(job, costs)
    shards = job.leases * job.shards_of_lease
    reads_per_s = job.leases * job.lease_bytes / (8 << 20) / seen.work_s
    writes_per_s = job.leases * (2 + -(-job.rows_of_lease * job.row_bytes // PART_BYTES)) / seen.work_s
    memory = shards * costs.shard_bytes + seen.fragments * costs.fragment_memory
    return [
        name,
        f"{seen.work_s / 3600:.2f}",
        f"{seen.total_s / 3600:.2f}",
        f"{seen.busy:.3f}",
        f"{(seen.driver_s + shards * costs.shard_s) / seen.work_s:.2f}",
        f"{seen.commits:,}",
        f"{seen.longest_commit_s:,.0f}",
        f"{seen.fragments:,}",
        f"{seen.fragments * 201 / 1e6:,.0f}",
        f"{seen.merged_bytes / 1e12:.1f}",
        f"{reads_per_s:,.0f}",
        f"{writes_per_s:,.0f}",
        f"{memory / 1e9:.1f}",
    ]


def main() -> None:
    """Simulate, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, help="runs that benchmarks.scale wrote")
    args = parser.parse_args()
    console = Console(width=170)
    if args.check:
        console.print(check(args.check, Costs()))
        return
    names = ("fleet", "hours of work", "to the end", "busy", "driver's cores", "commits", "longest s", "fragments")
    shown = Table(*names, "manifest MB", "merged TB", "reads/s", "writes/s", "driver GB")
    for name, job in FLEETS.items():
        shown.add_row(*fleet(name, job, Costs() if job.outcomes_a_turn > 1 else _ONE_OUTCOME_A_TURN))
    console.print(shown)


if __name__ == "__main__":
    main()
