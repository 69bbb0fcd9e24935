"""Embedding in this process, without Ray."""

from __future__ import annotations

from pipelines.embedding.embedder import Embedder
from pipelines.shards import list_shards
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig
from schemas.records import EmbedProgress, Lease, LeaseResult
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


class SilentDisplay:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.last = EmbedProgress()

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, progress: EmbedProgress, *, is_last: bool = False) -> None:
        self.last = progress
