"""`mlake nightly CONFIG`: the least work, proven, published in one step. A scheduler may start it at any hour.

lock      one night of a table at a time; one that is not seen for 15 minutes is taken for dead and fenced off
plan      compare the listing with the ledger; with nothing to do, the night ends here
embed     the new and changed shards, by the embed job
derive    prefix columns, indexes and funnels are brought up to date
audit     every gate is measured
publish   if all pass; else `prod` stays
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.options import ConfigFile, DryRun, Log, Overrides
from pipelines.nightly.hooks import run_hooks
from pipelines.nightly.plan import NightPlan, plan_night, withdraw
from pipelines.reports.console import open_console
from pipelines.reports.nightly import print_night, print_night_plan
from pipelines.storage.addresses import absolute
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.night_log import NightLock
from pipelines.tables.publication_log import read_head
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import load_config
from schemas.config.nightly import NightlyConfig
from schemas.errors import AuditFailed, TableNotFound
from schemas.nights import Night, NightCounts
from schemas.publications import PROD


def main(
    config_file: ConfigFile, /, *, overrides: Overrides = None, dry_run: DryRun = False, log: Log = "screen"
) -> int:
    """Embed what is new, bring what is derived up to date, audit the result, and publish it.

    The config is that of an embed job; every setting of a night has a default. If a gate of the audit fails, prod stays
    as it was and the exit code is 1.
    """
    config = load_config(NightlyConfig, config_file, overrides or ())
    console = open_console(is_error=log == "json")
    if dry_run:
        print_night_plan(config, plan_night(config), console)
        return 0
    night = run(config, log=log)
    print_night(config.table, night, console)
    if night.state == "refused":
        failed = "; ".join(f"{gate.gate}: {gate.said}" for gate in night.audit if not gate.passed)
        raise AuditFailed(
            f"the audit refuses version {night.version} of generation {night.generation}, and `prod` stays: {failed}; "
            f"to publish it all the same: mlake publish {config.table} --generation {night.generation} "
            f"--version {night.version} --force"
        )
    return 130 if night.state == "stopped" else 0


def run(config: NightlyConfig, *, log: Log = "screen") -> Night:
    """Run one night, and return its record.

    Raises:
        NightRunning: Another night is at work on the table.
        RunExpired: This night was suspended, and another has taken over.
        LakeError: As the embed job.
    """
    lock = NightLock(config.table, config.storage)
    try:
        with lock:
            head = read_head(absolute(config.table), config.storage)
            _Run(config, lock, log, expected_head=0 if head is None else head.number).run()
    finally:
        run_hooks(config.hooks, lock.night)
    return lock.night


class _Run:
    def __init__(self, config: NightlyConfig, lock: NightLock, log: Log, expected_head: int) -> None:
        self._config, self._lock, self._log, self._head = config, lock, log, expected_head
        self._seconds: dict[str, float] = {}
        self._console = open_console(is_error=log == "json")

    def run(self) -> None:
        with self._step("plan"):
            plan = plan_night(self._config)
        counts = NightCounts(
            new=len(plan.new),
            changed=len(plan.changed),
            vanished=len(plan.vanished),
            unchanged=plan.unchanged,
            expected_rows=plan.expected_rows,
            rows=0 if plan.embed.table is None else len(plan.embed.table),
        )
        self._lock.update(generation=plan.generation, counts=counts)
        withdrawn = plan.vanished if self._config.withdraw else ()
        if not plan.embed.todo and not withdrawn and plan.is_published:
            self._lock.update(state="nothing")
            return
        counts = self._embed(plan, counts)
        if plan.is_cut or self._lock.night.state == "stopped":
            return
        table = VectorTable.open(plan.uri, storage=self._config.storage)
        counts = self._withdraw(table, withdrawn, counts)
        table = self._derive(table.refresh())
        self._lock.update(counts=counts.model_copy(update={"rows": len(table)}), version=table.dataset.version)
        self._audit_and_publish(plan, table, counts)

    def _embed(self, plan: NightPlan, counts: NightCounts) -> NightCounts:
        if not plan.tonight:
            return counts
        from jobs.embed import run as embed  # here, since it loads Ray and torch

        some = tuple(shard.uri for shard in plan.tonight) if plan.is_cut else None
        config = self._config.embed_config(plan.uri, some)
        with self._step("embed"):
            summary = embed(config, log=self._log)
        counts = counts.model_copy(update={"encoded": summary.rows, "rejects": summary.rejects})
        state = "stopped" if summary.is_stopped else "unfinished" if plan.is_cut else "running"
        self._lock.update(counts=counts, bound_by=summary.bound_by, state=state)
        self._lock.check()
        return counts

    def _withdraw(self, table: VectorTable, shards: tuple[int, ...], counts: NightCounts) -> NightCounts:
        if not shards:
            return counts
        before = len(table.refresh())
        with RunRecord(table, "nightly", {"withdrawn_shards": len(shards)}) as record:
            after = withdraw(table, shards, record.run)
        return counts.model_copy(update={"withdrawn": before - len(after)})

    def _derive(self, table: VectorTable) -> VectorTable:
        from pipelines.nightly.derived import derived_of  # here, since it loads torch

        prod = self._prod()
        before = None if prod is None or prod.uri == table.uri else prod.uri
        with self._step("derive"), RunRecord(table, "nightly", self._config):
            for kind in derived_of(self._config, before):
                for said in kind.update(table):
                    self._console.print(said, soft_wrap=True)
                table = table.refresh()
        self._lock.check()
        return table.refresh()

    def _audit_and_publish(self, plan: NightPlan, table: VectorTable, counts: NightCounts) -> None:
        from pipelines.nightly.audit import Subject, audit  # here, since it loads torch

        embed = self._config.embed_config(plan.uri)
        samples = counts.encoded + counts.rejects
        subject = Subject(
            table, self._prod(), embed, plan.embed.shards, samples, counts.rejects, withdrawn=counts.withdrawn
        )
        with self._step("audit"):
            gates = audit(subject, self._config.audit)
        self._lock.update(audit=gates)
        if not all(gate.passed for gate in gates):
            self._lock.update(state="refused")
            return
        self._lock.check()
        with self._step("publish"):
            request = PublishRequest(run=self._lock.night.run, audit=gates, expected_head=self._head)
            made = publish(self._config.table, describe(table, plan.generation), self._config.storage, request)
        self._lock.update(state="published", publication=made.number)

    def _prod(self) -> VectorTable | None:
        head = read_head(absolute(self._config.table), self._config.storage)
        if head is None or head.state is None:
            return None
        try:
            return VectorTable.open(self._config.table, PROD, self._config.storage)
        except TableNotFound:
            return None

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = round(time.monotonic() - began, 3)
            self._lock.update(seconds=dict(self._seconds))
