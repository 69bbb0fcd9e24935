"""How the actors of a run spent their time, from what each reports with the leases it finishes.

Owns the sum over actors. Time after an actor's last lease, and actors that never finish one, count as idle.
"""

from __future__ import annotations

from collections import Counter

from schemas.journal import EmbedSummary
from schemas.records import Usage, WorkerCounters


class WorkerTimes:
    """The last counters of each actor, and how long ago they were true."""

    def __init__(self) -> None:
        """Start with no actor."""
        self._last: dict[str, tuple[dict[str, int], float]] = {}
        self._ended_s = 0.0

    def add(self, worker: WorkerCounters | None, now_s: float) -> None:
        """Take the counters that came with a finished lease.

        Args:
            worker: What the actor has counted since it was up.
            now_s: Time of a clock that never goes back.
        """
        if worker is not None:
            self._last[worker.actor] = (worker.counters, now_s)

    def end(self, now_s: float) -> None:
        """Note when the last lease ended; a later call replaces it."""
        self._ended_s = now_s

    def usage(self) -> Usage | None:
        """Return what the encoders of all actors asked of a server; None where they asked none."""
        total = Counter[str]()
        for counters, _ in self._last.values():
            total.update({name: count for name, count in counters.items() if name.startswith("served_")})
        return Usage.of(total)

    def add_to(self, summary: EmbedSummary) -> None:
        """Write the sums over all actors into a summary whose `actors` and `seconds` are known."""
        total = Counter[str]()
        for counters, _ in self._last.values():
            total.update(counters)
        after_s = sum(max(0.0, self._ended_s - seen_s) for _, seen_s in self._last.values())
        never_s = max(0, summary.actors - len(self._last)) * max(0.0, summary.seconds - summary.flush_s)
        summary.actor_s = total["up_ms"] / 1000 + after_s + never_s
        summary.idle_s = total["idle_ms"] / 1000 + after_s + never_s
        summary.busy_s = total["busy_ms"] / 1000
        summary.batches, summary.padding_units = total["batches"], total["padding_units"]
        summary.read_bytes, summary.written_bytes = total["read_bytes"], total["written_bytes"]
