"""`python -m jobs embed CONFIG`: shards in, a table of Matryoshka vectors out.

    plan      list the shards, open or make the table, drop what its ledger holds, lease the rest
    run       actors embed leases (pipelines/embed.py); a failed lease is split, tried again, and given up in the end
    land      a lander commits finished leases, many at once

Owns the order of events and what happens to a shard that fails.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from cluster.actors import ActorPool, Outcome
from cluster.metrics import RunMetrics
from cluster.session import Pool, connect, has_gpu, plan_pool
from jobs.lander import Lander
from jobs.screen import LogFormat, Screen, Snapshot, open_screen
from jobs.stopping import Stop
from pipelines.embed import Embedder, Feeder, RotationFitter
from pipelines.encoders import licence_notice, make_space, resolve
from pipelines.rotation import Rotation, save_rotation
from pipelines.runs import RunRecord
from pipelines.shards import list_shards, read_blocks, shard_schema
from pipelines.storage import absolute
from pipelines.tables import VectorTable
from schemas.columns import Space
from schemas.config import EmbedConfig, load_config
from schemas.errors import (
    ConfigError,
    FieldNotFound,
    RunError,
    ShardsFailed,
    TableExists,
    TableNotFound,
    TooManyRejects,
)
from schemas.records import Lease, LeaseResult, Shard, StageSeconds

_FAILURES_IN_A_ROW = 16
_SHOWN = 10
_UNITS = {"text": "tokens", "image": "images", "vector": "vectors"}


@dataclass(frozen=True)
class Plan:
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


@dataclass
class Summary:
    """How a run ended; stored with the run.

    Attributes:
        shards: Shards the run landed, of `shards_todo`; `shards_done` were in the table before.
        rows: Rows it landed.
        rejects: Samples that could not be embedded.
        units: Tokens or images it encoded.
        seconds: Wall-clock from the first loaded encoder on; `start_s` is what came before.
        stages: Seconds in each stage, summed over leases.
    """

    shards: int = 0
    shards_todo: int = 0
    shards_done: int = 0
    rows: int = 0
    rejects: int = 0
    units: int = 0
    seconds: float = 0.0
    start_s: float = 0.0
    commits: int = 0
    commit_s: float = 0.0
    bound_by: str = ""
    stages: StageSeconds | None = None
    is_stopped: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("config", help="TOML file; examples are in jobs/configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--log", choices=["screen", "json"], default="screen", help="json: one JSON object a line")
    parser.add_argument("--retry-rejects", action="store_true", help="embed shards that had rejects again, in place")


def main(args: argparse.Namespace) -> int:
    """Embed, and say in one line what came of it."""
    config = load_config(EmbedConfig, args.config, args.set)
    console = Console(stderr=args.log == "json")
    if args.dry_run:
        _print_plan(console, config, make_plan(config, retry_rejects=args.retry_rejects))
        return 0
    summary = run(config, log=args.log, retry_rejects=args.retry_rejects)
    if not summary.shards_todo:
        console.print(f"nothing to do: {config.table} holds all {summary.shards_done} shards", highlight=False)
        return 0
    console.print(
        f"{config.table}: {summary.rows:,} rows from {summary.shards} shards in {summary.seconds:.1f} s "
        f"({summary.rows / max(summary.seconds, 1e-9):,.0f} rows/s, bound by {summary.bound_by}), "
        f"{summary.rejects} rejects, {summary.shards_done} shards were there before",
        highlight=False,
    )
    if summary.is_stopped:
        console.print("stopped as asked; the same command goes on from here", highlight=False)
        return 130
    return 0


def make_plan(config: EmbedConfig, *, retry_rejects: bool = False, has_gpu: bool = False) -> Plan:
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
        return Plan(shards, shards, None, make_space(config.encoder, has_gpu=has_gpu))
    encoder = config.encoder
    if encoder.dtype == "auto":
        encoder = encoder.model_copy(update={"dtype": table.space.dtype})
    space = make_space(encoder)
    if config.rotation.kind == "pca" and table.space.rotation:
        space = space.model_copy(update={"rotation": table.space.rotation, "ladder": table.space.ladder})
    table.check_space(space)
    done = table.done_shards()
    if retry_rejects:
        done -= set(table.companion("rejects").to_table(columns=["shard"])["shard"].to_pylist())
    return Plan(shards, tuple(shard for shard in shards if shard.id not in done), table, table.space)


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


def run(config: EmbedConfig, *, log: LogFormat = "screen", retry_rejects: bool = False) -> Summary:
    """Embed what is not in the table yet.

    Returns:
        What was done; of a run that was stopped on request, up to there.

    Raises:
        ShardsFailed: Some shards could not be embedded; all others landed.
        TooManyRejects: The share of rejected samples passed the limit; what landed before stays.
        LakeError: The config, the shards or the table do not allow the run at all.
    """
    plan = make_plan(config, retry_rejects=retry_rejects)
    if not plan.todo:
        return Summary(shards_done=len(plan.shards))
    began = time.time()
    with connect(), open_screen(log, "embed") as screen:
        if notice := licence_notice(resolve(config.encoder)):
            screen.say(notice)
        pool = plan_pool(config.cluster)
        table = plan.table or _create_table(config, make_plan(config, has_gpu=has_gpu()), pool, screen)
        record = RunRecord(table, "embed", config)
        embedding = _Embedding(config, table, plan, record, screen, replace=retry_rejects)
        try:
            with Stop() as stop:
                embedding.run(pool, stop, began)
        except BaseException as error:
            record.end(
                "incomplete" if isinstance(error, RunError) else "failed", embedding.final() | {"error": str(error)}
            )
            raise
        record.end("stopped" if embedding.summary.is_stopped else "complete", embedding.final())
    return embedding.summary


class _Embedding:
    """One run's way through its leases."""

    def __init__(
        self, config: EmbedConfig, table: VectorTable, plan: Plan, record: RunRecord, screen: Screen, *, replace: bool
    ) -> None:
        self.summary = Summary(shards_todo=len(plan.todo), shards_done=len(plan.shards) - len(plan.todo))
        self._config, self._table, self._todo = config, table, plan.todo
        self._record, self._screen = record, screen
        self._unit = _UNITS[config.input.modality]
        self._lander = Lander(table, config, record.run, replace=replace)
        self._stages = StageSeconds()
        self._embedded = 0
        self._failed: dict[str, str] = {}
        self._failures_in_a_row = 0
        self._meter = BusyMeter()
        self._metrics = RunMetrics("embed", record.run)

    def run(self, pool: Pool, stop: Stop, began: float) -> None:
        leases = plan_leases(self._todo, self._config.limits.lease_bytes)
        make_feeder = partial(Feeder, self._config, self._table.kept, 1)
        with ActorPool(partial(Embedder, self._config, pool.threads), pool, make_feeder) as actors:
            while leases:
                for outcome in actors.run(leases):
                    self._take(outcome, actors)
                    self._lander.poll()
                    self._record.beat()
                    if stop.asked and not self.summary.is_stopped:
                        self.summary.is_stopped = True
                        waiting = actors.drop_waiting()
                        self._screen.say(
                            f"stopping: finishing what is in flight, leaving {waiting} leases; again to stop now"
                        )
                    self._show(self._snapshot(actors, pool))
                redo = self._lander.flush()
                leases = [] if self.summary.is_stopped else plan_leases(redo, self._config.limits.lease_bytes)
            self._show(self._snapshot(actors, pool), is_last=True)
            ended = time.time()
            self.summary.start_s = (actors.up_at() or ended) - began
        self.summary.seconds = ended - began - self.summary.start_s
        if self._failed:
            raise ShardsFailed(self._failed, len(self._todo))

    def final(self) -> dict[str, Any]:
        """Return the summary with all that is known by now."""
        lander, summary = self._lander, self.summary
        summary.shards, summary.rows, summary.rejects = lander.shards, lander.rows, lander.rejects
        summary.commits, summary.commit_s = lander.commits, lander.commit_s
        summary.stages, summary.bound_by = self._stages, bound_by(self._stages)
        return asdict(summary)

    def _take(self, outcome: Outcome[Lease, LeaseResult] | None, actors: ActorPool[Lease, LeaseResult]) -> None:
        if outcome is None:
            return
        if outcome.result is not None:
            self._failures_in_a_row = 0
            self._embedded += len(outcome.result.counts)
            self.summary.units += outcome.result.units
            for stage in fields(StageSeconds):
                setattr(
                    self._stages,
                    stage.name,
                    getattr(self._stages, stage.name) + getattr(outcome.result.seconds, stage.name),
                )
            self._lander.add(outcome.result)
            return
        self._failures_in_a_row += 1
        error = outcome.error or RunError("the actor gave no reason")
        if isinstance(error, TooManyRejects):
            raise error
        if self._failures_in_a_row > _FAILURES_IN_A_ROW:
            raise RunError(
                f"{self._failures_in_a_row} leases failed in a row, so the run stops; the last: {error}"
            ) from error
        # Of several leases in the hands of an actor that died, none is known to have killed it.
        counts = outcome.was_alone or not outcome.died
        for lease in self._after_failure(outcome.item, error, counts=counts):
            actors.push(lease, alone=outcome.died)

    def _after_failure(self, lease: Lease, error: BaseException, *, counts: bool) -> Iterator[Lease]:
        """Split a failed lease into its shards; try a single shard again; give it up after `limits.max_tries`."""
        if len(lease.shards) > 1:
            yield from (Lease((shard,)) for shard in lease.shards)
            return
        shard, tries = lease.shards[0], lease.tries + counts
        reason = f"{type(error).__name__}: {error}"
        if tries >= self._config.limits.max_tries or isinstance(error, FieldNotFound):
            self._failed[shard.uri] = reason
            self._screen.say(f"[red]given up[/] {escape(shard.uri)}: {escape(reason)}")
        else:
            yield Lease(lease.shards, tries)

    def _show(self, snapshot: Snapshot, *, is_last: bool = False) -> None:
        self._screen.show(snapshot, is_last=is_last)
        self._metrics.set({name: value for name, value in asdict(snapshot).items() if not isinstance(value, str)})

    def _snapshot(self, actors: ActorPool[Lease, LeaseResult], pool: Pool) -> Snapshot:
        counters = actors.progress()
        return Snapshot(
            shards=self._embedded,
            shards_total=len(self._todo),
            landed=self._lander.shards,
            rows=counters.get("rows", 0),
            units=counters.get("units", 0),
            unit=self._unit,
            rejects=counters.get("rejects", 0),
            failed=len(self._failed),
            encoder_busy=self._meter.share(counters.get("busy_ms", 0) / 1000 / pool.actors),
            bound_by=bound_by(self._stages) if self._embedded else ("encode" if counters.get("rows") else "start"),
        )


def _create_table(config: EmbedConfig, plan: Plan, pool: Pool, screen: Screen) -> VectorTable:
    """Make the table, and before it the rotation of its space. Whoever loses a race takes the winner's."""
    space = plan.space
    if config.rotation.kind == "pca":
        screen.say(f"fitting a rotation on {config.rotation.sample_rows:,} samples")
        rotation = _fit_rotation(config, plan.shards, pool)
        save_rotation(rotation, absolute(config.table), config.storage)
        space = space.model_copy(update={"rotation": rotation.fingerprint, "ladder": rotation.ladder})
    try:
        kept = shard_schema(plan.shards[0], config.input, config.storage)
        return VectorTable.create(config.table, space, kept, config.storage)
    except TableExists:
        table = make_plan(config).table
        if table is None:
            raise
        return table


def _fit_rotation(config: EmbedConfig, shards: tuple[Shard, ...], pool: Pool) -> Rotation:
    one = replace(pool, actors=1)
    with ActorPool[tuple[Shard, ...], Rotation](partial(RotationFitter, config, pool.threads), one) as actors:
        tries = 0
        for outcome in actors.run([shards]):
            if outcome is None:
                continue
            if outcome.result is not None:
                return outcome.result
            tries += 1
            if not outcome.died:
                raise outcome.error or RunError("the actor that fits the rotation gave no reason")
            if tries < config.limits.max_tries:
                actors.push(outcome.item)
    raise RunError(f"the actor that fits the rotation died {tries} times; give it more memory, or lower sample_rows")


def _print_plan(console: Console, config: EmbedConfig, plan: Plan) -> None:
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


class BusyMeter:
    """Share of wall-clock in which the encoders worked, over the last moments."""

    def __init__(self) -> None:
        """Start at zero."""
        self._at, self._busy_s, self._share = time.monotonic(), 0.0, 0.0

    def share(self, busy_s: float) -> float:
        """Take note of the busy seconds so far; return their share of the last two seconds or more."""
        now = time.monotonic()
        if now - self._at >= 2:
            self._share = max(0.0, min(1.0, (busy_s - self._busy_s) / (now - self._at)))
            self._at, self._busy_s = now, busy_s
        return self._share


def bound_by(stages: StageSeconds) -> str:
    """Name the stage that the others waited for: read, prepare, encode or write."""
    if stages.encoder_waited <= 0.1 * stages.total and stages.write <= 0.1 * stages.total:
        return "encode"
    if stages.write > stages.encoder_waited:
        return "write"
    return "read" if stages.read > stages.prepare else "prepare"
