"""`mlake embed CONFIG`: shards in, a table of Matryoshka vectors out.

    plan      list the shards, open or create the table, drop the shards it holds, lease the rest
    run       actors embed leases; a failed lease is split, retried, and given up in the end
    commit    finished leases are committed in the background, many at once

All three are in pipelines/embedding; this job connects them with Ray and with the screen.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial

from cluster.actors import ActorPool
from cluster.metrics import ExportingDisplay, RunMetrics
from cluster.placement import has_gpu, plan_pool
from cluster.session import Stop, connect, saying_that_it_waits
from cluster.stragglers import Stragglers
from jobs.embed_pilots import compare_encoder, fit_on_an_actor
from jobs.options import ConfigFile, DryRun, Flag, Log, Overrides
from pipelines.embedding.batching import most_halvings
from pipelines.embedding.column_plan import apply_columns, run_columns
from pipelines.embedding.creation import create_table_for
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.feeder import Feeder
from pipelines.embedding.plan import EmbedPlan, make_plan, restored_companions
from pipelines.embedding.reuse import stored_vectors
from pipelines.embedding.run import EmbedRun
from pipelines.encoders import licence_notice, modules_to_send, resolve
from pipelines.nightly.erase import finish_erasure
from pipelines.reports.console import open_console
from pipelines.reports.progress import LogFormat, Screen, open_screen
from pipelines.reports.terminal import print_embed_plan, print_embed_summary
from pipelines.tables.rows import shared_ids_warning
from pipelines.tables.runs import RunRecord
from schemas.config import EmbedConfig, check_given, load_config
from schemas.journal import EmbedSummary
from schemas.printable import counted
from schemas.records import Lease, LeaseResult


def main(
    config_file: ConfigFile,
    /,
    *,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    log: Log = "auto",
    retry_rejects: Flag = False,
    unverified: Flag = False,
) -> int:
    """Embed shards into a table; the same command resumes.

    A shard that the table already holds is skipped, and a changed one replaces its old rows.

    Args:
        retry_rejects: Embed the shards that had rejects again; their rows are replaced.
        unverified: Take an encoder that this release was not compared with, as encoder.unverified=true does.
    """
    allowed = ["encoder.unverified=true"] * unverified
    config = load_config(EmbedConfig, config_file, [*(overrides or ()), *allowed])
    console = open_console(is_error=log == "json")
    if dry_run:
        print_embed_plan(config, make_plan(config, retry_rejects=retry_rejects), console)
        return 0
    summary = run(config, log=log, retry_rejects=retry_rejects)
    print_embed_summary(config.table, summary, console)
    return 130 if summary.is_stopped else 0


def run(config: EmbedConfig, *, log: LogFormat = "screen", retry_rejects: bool = False) -> EmbedSummary:
    """Embed the shards that are not in the table yet.

    Returns:
        What was done; if the run was stopped on request, up to there.

    Raises:
        ShardsFailed: Some shards could not be embedded; all others are committed.
        ShardsDamaged: Only a part of some shards could be read; that part is committed.
        TooManyRejects: The rejects pass the limit; what was committed before stays.
        LakeError: The config, the shards or the table do not allow the run at all.

    Example:
        >>> embed(load_config(EmbedConfig, "jobs/configs/news.toml"))  # doctest: +SKIP
    """
    check_given(EmbedConfig, config=config)
    with open_screen(log, "embed") as screen:
        for said in finish_erasure(config.table, config.storage):
            screen.say(said)
        with saying_that_it_waits("the listing of the shards", after_s=2.0):
            plan = make_plan(config, retry_rejects=retry_rejects)
        for note in (*restored_companions(plan), *plan.notes):
            screen.say(note)
        if not plan.todo:
            return EmbedSummary(shards_done=len(plan.shards))
        if licence := licence_notice(resolve(config.encoder)):
            screen.say(licence)
        return _embed(config, plan, screen, replace=retry_rejects)


def _embed(config: EmbedConfig, plan: EmbedPlan, screen: Screen, *, replace: bool) -> EmbedSummary:
    began = time.time()
    screen.begin("connecting to Ray")
    with connect():
        size = dataclasses.replace(plan_pool(config.cluster), modules=modules_to_send(config.encoder))
        equality = None
        if plan.table is None:
            equality = compare_encoder(config, size, plan, screen)
            fit = partial(fit_on_an_actor, config, size)
            table = create_table_for(config, make_plan(config, has_gpu=has_gpu()), fit, screen.say)
        else:
            table = apply_columns(plan.table, plan.columns)
        make_feeder = partial(Feeder, config, run_columns(table, config), 1, stored_vectors(table, config))
        with (
            Stop() as stop,
            RunRecord(table, "embed", config) as record,
            ActorPool[Lease, LeaseResult](
                partial(Embedder, config, size.threads),
                size,
                make_feeder,
                metric_tags={"job": "embed", "run": record.run},
                stragglers=Stragglers(weigh=lambda lease: sum(shard.size for shard in lease.shards)),
                most_halvings=most_halvings(config.encoder),
            ) as pool,
        ):
            screen.name_run(record.run)
            screen.begin(f"starting {counted(pool.actors, 'actor')}")
            display = ExportingDisplay(screen, RunMetrics("embed", record.run))
            embedding = EmbedRun(config, plan, table, record, display, replace=replace)
            embedding.summary.equality = equality
            embedding.run(pool, lambda: stop.is_asked, began)
            if warning := shared_ids_warning(table.refresh().dataset, config.table):
                screen.say(warning)
    return embedding.summary
