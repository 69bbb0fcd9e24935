"""Run a night: embed, derive, audit, publish, under the night's lock.

Owns the order of the steps, and what the record of the night says. Owns no embedding: the job passes it in, since it
needs Ray. What loads torch is imported when there is something to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipelines.nightly.derivation import derive
from pipelines.nightly.erase import finish_erasure
from pipelines.nightly.plan import NightPlan, plan_night, withdraw
from pipelines.storage.addresses import absolute
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.maintenance import compact_table, delete_orphans, find_orphans, removed_share
from pipelines.tables.night_log import NightLock
from pipelines.tables.publication_log import read_head
from pipelines.tables.retention import retain
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig
from schemas.config.nightly import NightlyConfig
from schemas.errors import TableNotFound
from schemas.journal import EmbedSummary
from schemas.nights import NightCounts
from schemas.publications import PROD

_MOST_REMOVED = 0.1  # of the rows in a table's files, before these are rewritten without them


class NightRun:
    """One night, which holds its lock already."""

    def __init__(
        self,
        config: NightlyConfig,
        lock: NightLock,
        embed: Callable[[EmbedConfig], EmbedSummary],
        say: Callable[[str], object],
    ) -> None:
        """Do nothing yet.

        Args:
            config: The night.
            lock: Its lock, whose record it keeps.
            embed: Runs an embed job.
            say: Is told in a sentence what was brought up to date.
        """
        self._config, self._lock, self._embed_shards, self._say = config, lock, embed, say
        self._head = 0
        self._seconds: dict[str, float] = {}

    def run(self) -> None:
        """Do what is to be done.

        Raises:
            RunExpired: This night was suspended, and another has taken over.
            PublicationConflict: `prod` was moved meanwhile.
            LakeError: As the embed job.
        """
        for said in finish_erasure(self._config.table, self._config.storage, has_lock=True):
            self._say(said)
        # If `prod` moves from here on, nothing is published. `check` tells whether another night has moved it before.
        head = read_head(absolute(self._config.table), self._config.storage)
        self._head = 0 if head is None else head.number
        self._lock.check()
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
        price = self._config.price_per_hour
        self._lock.update(generation=plan.generation, counts=counts, price_per_hour=price)
        withdrawn = plan.vanished if self._config.withdraw else ()
        if not plan.embed.todo and not withdrawn and plan.is_published:
            self._lock.update(state="nothing")
            return
        plan, counts = self._transform(plan, counts)
        counts = self._embed(plan, counts)
        if plan.is_cut or self._lock.night.state == "stopped":
            return
        table = VectorTable.open(plan.uri, storage=self._config.storage)
        counts = self._withdraw(table, withdrawn, counts)
        with self._step("tidy"):
            self._tidy(table.refresh())
        table = self._derive(table.refresh())
        self._lock.update(counts=counts.model_copy(update={"rows": len(table)}), version=table.dataset.version)
        self._audit_and_publish(plan, table)

    def _transform(self, plan: NightPlan, counts: NightCounts) -> tuple[NightPlan, NightCounts]:
        """Derive what needs no encoding; what other runs hindered is encoded."""
        if plan.not_derived:
            self._say(plan.not_derived)
        if plan.derivation is None:
            return plan, counts
        self._say(str(plan.derivation))
        with self._step("transform"):
            rows = derive(plan.derivation, self._config.embed_config(plan.uri), plan.embed, self._say)
        self._lock.check()
        if rows < plan.derivation.rows:
            plan = replace(plan, tonight=plan.embed.todo, derivation=None)
        return plan, counts.model_copy(update={"derived": rows})

    def _embed(self, plan: NightPlan, counts: NightCounts) -> NightCounts:
        if not plan.tonight:
            return counts
        some = tuple(shard.uri for shard in plan.tonight) if plan.is_cut else None
        config = self._config.embed_config(plan.uri, some)
        with self._step("embed"):
            summary = self._embed_shards(config)
        encoded = max(0, summary.rows - summary.reused)
        done = {"encoded": encoded, "reused": summary.reused, "erased": summary.erased, "rejects": summary.rejects}
        counts = counts.model_copy(update=done)
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

    def _tidy(self, table: VectorTable) -> None:
        """Remove what crashed nights left, and many removed rows; before the audit, since both make versions."""
        orphans = find_orphans(table)
        delete_orphans(table, orphans)
        self._lock.update(freed=orphans.nbytes)
        if removed_share(table) > _MOST_REMOVED:
            compact_table(table)

    def _derive(self, table: VectorTable) -> VectorTable:
        from pipelines.nightly.derived import derived_of  # here, since it loads torch

        prod = self._prod()
        before = None if prod is None or prod.uri == table.uri else prod.uri
        with self._step("derive"), RunRecord(table, "nightly", self._config):
            for kind in derived_of(self._config, before):
                for said in kind.update(table):
                    self._say(said)
                table = table.refresh()
        self._lock.check()
        return table.refresh()

    def _audit_and_publish(self, plan: NightPlan, table: VectorTable) -> None:
        from pipelines.nightly.audit import Subject, audit  # here, since it loads torch

        embed = self._config.embed_config(plan.uri)
        subject = Subject(table, self._prod(), embed, plan.embed.shards, withdraws=self._config.withdraw)
        with self._step("audit"):
            gates = audit(subject, self._config.audit)
        self._lock.update(audit=gates)
        if not all(gate.passed for gate in gates):
            self._lock.update(state="refused")
            return
        if plan.is_held:
            self._lock.update(state="held")
            return
        self._lock.check()
        with self._step("publish"):
            request = PublishRequest(run=self._lock.night.run, audit=gates, expected_head=self._head)
            made = publish(self._config.table, describe(table, plan.generation), self._config.storage, request)
        self._lock.update(state="published", publication=made.number)
        with self._step("retain"):
            keep = self._config.retain
            freed = retain(
                self._config.table,
                plan.generation,
                self._config.storage,
                generations=keep.generations,
                versions=keep.versions,
            )
        self._lock.update(freed=self._lock.night.freed + freed.nbytes, retired=freed.generations)

    def _prod(self) -> VectorTable | None:
        try:
            table = VectorTable.open(self._config.table, PROD, self._config.storage)
        except TableNotFound:
            return None
        return table if table.publication is not None else None

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = round(time.monotonic() - began, 3)
            self._lock.update(seconds=dict(self._seconds))
