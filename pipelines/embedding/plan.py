"""What a run of `jobs embed` sets out to do: which shards, into which table and space, in which leases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable

from pipelines.encoders import make_space, resolve
from pipelines.shards import list_shards, read_blocks, shard_schema
from pipelines.tables.table import VectorTable
from schemas.columns import Space
from schemas.config import EmbedConfig
from schemas.errors import ConfigError, SpaceMismatch, TableNotFound
from schemas.records import Lease, Shard

_SHOWN = 10


@dataclass(frozen=True)
class EmbedPlan:
    """What a run sets out to do.

    Attributes:
        shards: All shards that the config names.
        todo: Those that the table does not hold.
        table: The table, or None if it is still to be made.
        space: The space of its vectors; of a table still to be made, before any rotation is fitted.
    """

    shards: tuple[Shard, ...]
    todo: tuple[Shard, ...]
    table: VectorTable | None
    space: Space


def make_plan(config: EmbedConfig, *, retry_rejects: bool = False, has_gpu: bool = False) -> EmbedPlan:
    """List the shards and drop those that the table holds.

    Args:
        config: The job.
        retry_rejects: Do also the shards that had rejects.
        has_gpu: Whether the cluster has a GPU; decides the dtype of a new table.

    Raises:
        ShardNotFound: A pattern matches nothing.
        SpaceMismatch: The table holds vectors of another space.
    """
    _check_modality(config)
    shards = tuple(list_shards(config.shards, config.input.format, config.storage))
    try:
        table = VectorTable.open(config.table, storage=config.storage)
    except TableNotFound:
        shard_schema(shards[0], config.input, config.storage)
        return EmbedPlan(shards, shards, None, make_space(config.encoder, has_gpu=has_gpu))
    encoder = config.encoder
    if encoder.dtype == "auto":
        encoder = encoder.model_copy(update={"dtype": table.space.dtype})
    space = make_space(encoder)
    if config.rotation.kind == "pca" and table.space.rotation:
        space = space.model_copy(update={"rotation": table.space.rotation, "ladder": table.space.ladder})
    table.check_space(space)
    if config.rotation.kind != "none" and table.space.rotation is None:
        raise SpaceMismatch(
            f"{table.uri} holds vectors that were not rotated, and rotation.kind is {config.rotation.kind!r}; "
            "run `python -m jobs rotate` on the table first, or leave rotation.kind out"
        )
    done = table.done_shards()
    if retry_rejects:
        done -= set(table.companion("rejects").to_table(columns=["shard"])["shard"].to_pylist())
    return EmbedPlan(shards, tuple(shard for shard in shards if shard.id not in done), table, table.space)


def _check_modality(config: EmbedConfig) -> None:
    spec, modality = resolve(config.encoder), config.input.modality
    if modality not in spec.modalities:
        raise ConfigError(
            f"input.{modality} = {getattr(config.input, modality)!r}: {spec.name} does not embed that; "
            f"set {' or '.join(f'input.{allowed}' for allowed in spec.modalities)}, or choose another encoder"
        )


def plan_leases(shards: Sequence[Shard], lease_bytes: int) -> list[Lease]:
    """Put neighbouring small shards together up to `lease_bytes`; a larger shard stands alone."""
    leases: list[list[Shard]] = []
    size = 0
    for shard in shards:
        if not leases or size + shard.size > lease_bytes:
            leases.append([])
            size = 0
        leases[-1].append(shard)
        size += shard.size
    return [Lease(tuple(group)) for group in leases]


def print_plan(console: Console, config: EmbedConfig, plan: EmbedPlan) -> None:
    """Say what would be done."""
    sizes = sum(shard.size for shard in plan.todo)
    rotation = " (before the rotation, which is fitted when the run starts)" if config.rotation.kind == "pca" else ""
    grid = RichTable.grid(padding=(0, 2))
    grid.add_row("table", plan.table.uri if plan.table else f"{config.table} (new)")
    grid.add_row("space", f"{plan.space.fingerprint}{rotation if plan.table is None else ''}")
    grid.add_row("encoder", f"{plan.space.encoder} {plan.space.revision}, {plan.space.dtype}")
    grid.add_row("ladder", str(plan.space.ladder))
    grid.add_row("shards", f"{len(plan.todo):,} to do, {len(plan.shards) - len(plan.todo):,} in the table")
    grid.add_row("expected", f"about {expected_samples(plan.todo, config):,} samples, {sizes:,} bytes")
    console.print(grid, highlight=False, soft_wrap=True)
    for shard in plan.todo[:_SHOWN]:
        console.print(f"  {shard.uri}  {shard.size:,} bytes", highlight=False, soft_wrap=True)
    if len(plan.todo) > _SHOWN:
        console.print(f"  … and {len(plan.todo) - _SHOWN:,} more", highlight=False)


def expected_samples(shards: Sequence[Shard], config: EmbedConfig) -> int:
    """Count the samples of one middling shard and scale by bytes."""
    if not shards:
        return 0
    typical = sorted(shards, key=lambda shard: shard.size)[len(shards) // 2]
    blocks = read_blocks(typical, config.input, config.limits, config.storage)
    counted: int = sum(block.rows.num_rows + len(block.rejects) for block in blocks)
    return round(counted * sum(shard.size for shard in shards) / max(1, typical.size))
