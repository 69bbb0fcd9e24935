"""Embedding in this process, without Ray."""

from __future__ import annotations

from pipelines.embedding.column_plan import apply_columns
from pipelines.embedding.creation import create_table_for
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.plan import make_plan
from pipelines.shards import list_shards
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import Rotation
from schemas.config import EmbedConfig
from schemas.records import EmbedProgress, Lease, LeaseResult, Shard
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


def embed_planned(config: EmbedConfig) -> tuple[VectorTable, LeaseResult]:
    """Plan as `mlake embed` does, make or change the table, and commit what is to do as one lease."""
    plan = make_plan(config)
    if plan.table is None:
        table = create_table_for(config, plan, no_rotation, str)
    else:
        table = apply_columns(plan.table, plan.columns)
    result = Embedder(config, threads=2).run(Lease(plan.todo))
    commit_leases(table, [result], "test")
    return table.refresh(), result


def no_rotation(shards: tuple[Shard, ...]) -> Rotation:
    """Stand where a rotation would be fitted."""
    raise AssertionError(shards)


class SilentDisplay:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.last = EmbedProgress()

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, progress: EmbedProgress, *, is_last: bool = False) -> None:
        self.last = progress
