"""`python -m jobs embed CONFIG`: shards in, a table of Matryoshka vectors out.

    plan      list the shards, open or make the table, drop what its ledger holds, lease the rest
    run       actors embed leases (pipelines/embedding); a failed lease is split, retried, and given up in the end
    commit    a committer commits finished leases, many at once

Owns the order of events and what happens to a shard that fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape

from cluster.actors import ActorPool, ItemOutcome
from cluster.metrics import RunMetrics
from cluster.session import Pool, connect, has_gpu, plan_pool
from cluster.stopping import Stop
from jobs.options import ConfigFile, DryRun, Flag, Log, Overrides
from pipelines.embedding.committer import Committer
from pipelines.embedding.embedder import Embedder, Feeder, RotationFitter
from pipelines.embedding.plan import EmbedPlan, make_plan, plan_leases, print_plan
from pipelines.encoders import licence_notice, resolve
from pipelines.reports.progress import BusyMeter, LogFormat, Screen, Snapshot, open_screen
from pipelines.shards import shard_schema
from pipelines.storage.addresses import absolute
from pipelines.tables.rotations import save_rotation
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import Rotation
from schemas.config import EmbedConfig, load_config
from schemas.errors import (
    FieldNotFound,
    RunError,
    ShardsDamaged,
    ShardsFailed,
    TableExists,
    TooManyRejects,
)
from schemas.records import Lease, LeaseResult, Shard, StageSeconds

_REFUSED_IN_A_ROW = 16
_UNITS = {"text": "tokens", "image": "images", "vector": "vectors"}


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


def main(
    config_file: ConfigFile,
    /,
    *,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    log: Log = "screen",
    retry_rejects: Flag = False,
) -> int:
    """Embed shards into a table; the same command resumes.

    A shard that the table already holds is skipped, and a changed one replaces its old rows.

    Args:
        retry_rejects: Embed the shards that had rejects again; their rows are replaced.
    """
    config = load_config(EmbedConfig, config_file, overrides or ())
    console = Console(stderr=log == "json")
    if dry_run:
        print_plan(console, config, make_plan(config, retry_rejects=retry_rejects))
        return 0
    summary = run(config, log=log, retry_rejects=retry_rejects)
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


def run(config: EmbedConfig, *, log: LogFormat = "screen", retry_rejects: bool = False) -> Summary:
    """Embed what is not in the table yet.

    Returns:
        What was done; of a run that was stopped on request, up to there.

    Raises:
        ShardsFailed: Some shards could not be embedded; all others landed.
        ShardsDamaged: Of some shards only a part could be read; that landed.
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
        with Stop() as stop:
            try:
                embedding.run(pool, stop, began)
            except BaseException as error:
                record.end(_state_of(error), embedding.final() | {"error": str(error)})
                raise
            record.end("stopped" if embedding.summary.is_stopped else "complete", embedding.final())
    return embedding.summary


def _state_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    return "incomplete" if isinstance(error, RunError) else "failed"


class _Embedding:
    """One run's way through its leases."""

    def __init__(
        self,
        config: EmbedConfig,
        table: VectorTable,
        plan: EmbedPlan,
        record: RunRecord,
        screen: Screen,
        *,
        replace: bool,
    ) -> None:
        self.summary = Summary(shards_todo=len(plan.todo), shards_done=len(plan.shards) - len(plan.todo))
        self._config, self._table, self._todo = config, table, plan.todo
        self._record, self._screen = record, screen
        self._unit = _UNITS[config.input.modality]
        self._committer = Committer(table, config, record.run, replace=replace)
        self._stages = StageSeconds()
        self._embedded = 0
        self._failed: dict[str, str] = {}
        self._refused_in_a_row = 0
        self._meter = BusyMeter()
        self._metrics = RunMetrics("embed", record.run)

    def run(self, pool: Pool, stop: Stop, began: float) -> None:
        leases = plan_leases(self._todo, self._config.limits.lease_bytes)
        make_feeder = partial(Feeder, self._config, self._table.kept, 1)
        with ActorPool(partial(Embedder, self._config, pool.threads), pool, make_feeder) as actors:
            while leases:
                for outcome in actors.run(leases):
                    self._take(outcome, actors)
                    self._committer.poll()
                    self._record.beat()
                    if stop.asked and not self.summary.is_stopped:
                        self.summary.is_stopped = True
                        waiting = actors.drop_waiting()
                        self._screen.say(
                            f"stopping: finishing what is in flight, leaving {waiting} leases; again to stop now"
                        )
                    self._show(self._snapshot(actors, pool))
                redo = self._committer.flush()
                leases = [] if self.summary.is_stopped else plan_leases(redo, self._config.limits.lease_bytes)
            self._show(self._snapshot(actors, pool), is_last=True)
            ended = time.time()
            self.summary.start_s = (actors.up_at() or ended) - began
        self.summary.seconds = ended - began - self.summary.start_s
        if self._failed:
            raise ShardsFailed(self._failed, len(self._todo))
        if damaged := [shard.uri for shard in self._todo if shard.id in self._committer.damaged]:
            raise ShardsDamaged(
                f"{len(damaged)} of {len(self._todo)} shards are damaged, for example {damaged[0]}; what could be read "
                f"of them landed, the rest is named by `python -m jobs rejects {self._config.table}`; a mended shard "
                "replaces its rows at the next run"
            )

    def final(self) -> dict[str, Any]:
        """Return the summary with all that is known by now."""
        committer, summary = self._committer, self.summary
        summary.shards, summary.rows, summary.rejects = committer.shards, committer.rows, committer.rejects
        summary.commits, summary.commit_s = committer.commits, committer.commit_s
        summary.stages, summary.bound_by = self._stages, bound_by(self._stages)
        return asdict(summary)

    def _take(self, outcome: ItemOutcome[Lease, LeaseResult] | None, actors: ActorPool[Lease, LeaseResult]) -> None:
        if outcome is None:
            return
        if outcome.result is not None:
            self._refused_in_a_row = 0
            self._embedded += len(outcome.result.counts)
            self.summary.units += outcome.result.units
            self._stages += outcome.result.seconds
            self._committer.add(outcome.result)
            return
        error = outcome.error or RunError("the actor gave no reason")
        if isinstance(error, TooManyRejects):
            raise error
        # A store or a disk that refuses does so for every shard; a shard that cannot be read is only itself to blame.
        self._refused_in_a_row += isinstance(error, OSError)
        if self._refused_in_a_row > _REFUSED_IN_A_ROW:
            raise RunError(
                f"{self._refused_in_a_row} leases in a row could not be written, so the run stops; the last: {error}; "
                "when that is mended, the same command goes on from here"
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
            landed=self._committer.shards,
            rows=counters.get("rows", 0),
            units=counters.get("units", 0),
            unit=self._unit,
            rejects=counters.get("rejects", 0),
            failed=len(self._failed),
            encoder_busy=self._meter.share(counters.get("busy_ms", 0) / 1000 / pool.actors),
            bound_by=bound_by(self._stages) if self._embedded else ("encode" if counters.get("rows") else "start"),
        )


def _create_table(config: EmbedConfig, plan: EmbedPlan, pool: Pool, screen: Screen) -> VectorTable:
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


def bound_by(stages: StageSeconds) -> str:
    """Name the stage that the others waited for: read, prepare, encode or write."""
    if stages.encoder_waited <= 0.1 * stages.total and stages.write <= 0.1 * stages.total:
        return "encode"
    if stages.write > stages.encoder_waited:
        return "write"
    return "read" if stages.read > stages.prepare else "prepare"
