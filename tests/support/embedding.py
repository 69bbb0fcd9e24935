"""Embedding in this process, without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipelines.embedding.embedder import Embedder
from pipelines.shards import list_shards
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig
from schemas.records import EmbedProgress, Lease, LeaseResult
from schemas.work import Outcome, RetryPolicy
from tests.support.corpus import empty_table


def lease_of(config: EmbedConfig) -> Lease:
    """Return one lease of all shards of a config."""
    return Lease(tuple(list_shards(config.shards, storage=config.storage)))


def embed_here(config: EmbedConfig) -> tuple[VectorTable, LeaseResult]:
    """Create the table of a config and commit all shards as one lease."""
    table = empty_table(config)
    result = Embedder(config, threads=2).run(lease_of(config))
    commit_leases(table, [result], "test")
    return table.refresh(), result


class LocalPool:
    """A pool of one worker in this process; leases of the shards named in `fails` fail with these errors."""

    actors = 1

    def __init__(self, worker: Embedder, fails: dict[str, Exception] | None = None) -> None:
        self._worker, self._fails = worker, fails or {}
        self._waiting: list[tuple[Lease, int]] = []
        self.done: list[Lease] = []

    def run(
        self, items: Iterable[Lease], retry: RetryPolicy[Lease] | None = None, tick_s: float = 0.25
    ) -> Iterator[Outcome[Lease, LeaseResult] | None]:
        policy = retry or RetryPolicy()
        self._waiting += [(item, 0) for item in items]
        while self._waiting:
            yield None
            if not self._waiting:  # dropped meanwhile
                return
            lease, failures = self._waiting.pop(0)
            error = next((self._fails[shard.uri] for shard in lease.shards if shard.uri in self._fails), None)
            if error is None:
                self.done.append(lease)
                yield Outcome(lease, result=self._worker.run(lease))
                continue
            policy.on_failure(error)
            parts = [(part, 0) for part in policy.split(lease)]
            is_given_up = failures + 1 >= policy.max_tries or policy.is_final(error)
            if not parts and is_given_up:
                yield Outcome(lease, error=error)
            self._waiting += parts or ([] if is_given_up else [(lease, failures + 1)])

    def drop_waiting(self) -> int:
        count = len(self._waiting)
        self._waiting.clear()
        return count

    def progress(self) -> dict[str, int]:
        return self._worker.progress()

    def up_at(self) -> float | None:
        return None


class SilentDisplay:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.last = EmbedProgress()

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, progress: EmbedProgress, *, is_last: bool = False) -> None:
        self.last = progress
