"""One run of `mlake embed`: leases go to a pool of actors, finished leases to the committer, failures to the summary.

Owns what happens with the outcome of a lease, which errors end the run, and the run's entry in the journal. Owns no
actor: the pool is passed in (`schemas/work.py` says what it must offer).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from pipelines.embedding.advice import advise
from pipelines.embedding.column_plan import source_of
from pipelines.embedding.committer import Committer
from pipelines.embedding.plan import EmbedPlan, plan_leases
from pipelines.embedding.worker_times import WorkerTimes
from pipelines.shards import list_again
from pipelines.tables.erased_checks import check_erased
from pipelines.tables.runs import RunRecord, state_after
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig
from schemas.errors import (
    ColumnMismatch,
    EncoderRefuses,
    FieldNotFound,
    InputError,
    RunError,
    ShardChanged,
    ShardsDamaged,
    ShardsFailed,
    TooManyRejects,
    stored_text,
)
from schemas.journal import EmbedSummary
from schemas.printable import counted
from schemas.records import EmbedProgress, Lease, LeaseResult, Shard, StageSeconds, Usage, most_usage
from schemas.work import Outcome, RetryPolicy, WorkPool

_MAX_REFUSALS_IN_A_ROW = 16
_BUSY_OVER_S = 2.0
_SHOW_EVERY_S = 0.2
_UNITS = {"text": "tokens", "image": "images", "vector": "vectors"}


class Display(Protocol):
    """Shows a person how a run goes."""

    def say(self, text: str) -> None:
        """Print a message once."""
        ...

    def show(self, progress: EmbedProgress, *, is_last: bool = False) -> None:
        """Show how far the run is; called many times a second."""
        ...


class EmbedRun:
    """One run through the leases of a plan.

    Attributes:
        summary: What the run has done so far; complete when `run` has ended, however it ended.
    """

    def __init__(
        self,
        config: EmbedConfig,
        plan: EmbedPlan,
        table: VectorTable,
        record: RunRecord,
        display: Display,
        *,
        replace: bool = False,
    ) -> None:
        """Start with nothing embedded.

        Args:
            config: The job.
            plan: Which shards to embed.
            table: The table that gets the rows.
            record: The run's entry in the journal; `run` completes it.
            display: Told how the run goes.
            replace: Embed also shards that are in the table, in place of their rows.
        """
        done = len(plan.shards) - len(plan.todo)
        self.summary = EmbedSummary(shards_todo=len(plan.todo), shards_done=done, plan_s=plan.seconds)
        self._config, self._todo, self._record, self._display = config, plan.todo, record, display
        self._table = table
        self._committer = Committer(table, config, record.run, replace=replace)
        self._stages = StageSeconds()
        self._embedded = 0
        self._failed: dict[str, str] = {}
        self._refusals_in_a_row = 0
        self._changed: list[Shard] = []
        self._changes = Counter[str]()
        self._meter = BusyMeter(time.monotonic())
        self._workers = WorkerTimes()
        self._show_at = 0.0

    def run(self, pool: WorkPool[Lease, LeaseResult], should_stop: Callable[[], bool], began: float) -> None:
        """Embed and commit all leases, and write the outcome into the journal.

        Args:
            pool: Actors that each hold an `Embedder`.
            should_stop: Asked often; once it says so, the leases in flight finish and are committed, and no others.
            began: When the job began, in seconds since the epoch.

        Raises:
            ShardsFailed: Some shards could not be embedded; all others are committed.
            ShardsDamaged: Only a part of some shards could be read; that part is committed.
            TooManyRejects: The rejects pass the limit; what was committed before stays.
            EncoderRefuses: A served encoder refuses every input; what was committed before stays.
            RunError: The table's store refuses fragments or commits.
        """
        try:
            self._embed(pool, should_stop, began)
            self._check_complete()
        except BaseException as error:
            self._record.end(state_after(error), self._final_summary() | {"error": stored_text(error)})
            raise
        self._record.end("stopped" if self.summary.is_stopped else "complete", self._final_summary())

    def _embed(self, pool: WorkPool[Lease, LeaseResult], should_stop: Callable[[], bool], began: float) -> None:
        limits = self._config.limits
        retry = RetryPolicy[Lease](limits.max_tries, _split, _is_final, self._on_failure)
        leases = plan_leases(self._todo, limits, pool.actors)
        while leases:
            for outcome in pool.run(leases, retry):
                if outcome is not None:
                    self._on_outcome(outcome)
                self._committer.poll()
                self._record.beat()
                if should_stop() and not self.summary.is_stopped:
                    self._stop(pool)
                self._show(pool)
            self._workers.end(time.monotonic())
            redo = self._flush()
            again = [] if self.summary.is_stopped else [*redo, *self._list_changed_again()]
            leases = plan_leases(again, limits, pool.actors)
        self._display.show(self._progress(pool), is_last=True)
        ended = time.time()
        self.summary.start_s = (pool.up_at() or ended) - began
        self.summary.seconds = ended - began - self.summary.start_s
        self.summary.actors = pool.actors
        self._workers.add_to(self.summary)

    def _show(self, pool: WorkPool[Lease, LeaseResult]) -> None:
        """Show how far the run is, a few times a second: it means to look at every actor."""
        if (now := time.monotonic()) >= self._show_at:
            self._show_at = now + _SHOW_EVERY_S
            self._display.show(self._progress(pool))

    def _flush(self) -> list[Shard]:
        began = time.monotonic()
        redo = self._committer.flush()
        self.summary.flush_s += time.monotonic() - began
        return redo

    def _on_outcome(self, outcome: Outcome[Lease, LeaseResult]) -> None:
        """Pass a finished lease to the committer; note the shard of one that was given up."""
        result = outcome.result
        if result is not None:
            self._refusals_in_a_row = 0
            self._embedded += len(result.counts)
            self.summary.units += result.units
            self.summary.add_texts(result.texts)
            self.summary.reused += result.reused
            self.summary.erased += result.erased
            self._stages += result.seconds
            self.summary.leases += 1
            self._workers.add(result.worker, time.monotonic())
            self._committer.add(result)
            return
        (shard,) = outcome.item.shards
        if isinstance(outcome.error, ShardChanged) and self._changes[shard.name] < self._config.limits.max_tries:
            self._changes[shard.name] += 1
            self._changed.append(shard)
            return
        self._give_up(shard, outcome.error)

    def _give_up(self, shard: Shard, error: BaseException | None) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._failed[shard.name] = reason
        self._display.say(f"given up {shard.uri}: {reason}")

    def _list_changed_again(self) -> list[Shard]:
        """Return the shards that changed while the run read them, as they are now."""
        changed, self._changed = self._changed, []
        found = []
        for shard in changed:
            try:
                now = list_again(shard, self._config.storage)
                check_erased(self._table.uri, self._table, [now], source_of(self._config), self._config.storage)
            except (InputError, ColumnMismatch) as error:
                self._give_up(shard, error)
                continue
            found.append(now)
            self._display.say(f"{shard.uri} has changed while the run read it; it is read again")
            self._todo = tuple(found[-1] if each == shard else each for each in self._todo)
        return found

    def _on_failure(self, error: BaseException) -> None:
        """Count a failed try; end the run on an error that concerns all leases."""
        self.summary.failed_leases += 1
        if isinstance(error, TooManyRejects | EncoderRefuses):
            raise error
        # A store or a disk that refuses does so for every shard; any other error concerns one shard.
        self._refusals_in_a_row += isinstance(error, OSError)
        if self._refusals_in_a_row > _MAX_REFUSALS_IN_A_ROW:
            raise RunError(
                f"{self._refusals_in_a_row} leases in a row could not be written, so the run stops; the last: {error}; "
                "fix the cause and run the same command again: it resumes"
            ) from error

    def _stop(self, pool: WorkPool[Lease, LeaseResult]) -> None:
        self.summary.is_stopped = True
        waiting = pool.drop_waiting()
        self._display.say(
            f"stopping: finishing what is in flight, leaving {counted(waiting, 'lease')}; again to stop now"
        )

    def _check_complete(self) -> None:
        if self._failed:
            raise ShardsFailed(self._failed, len(self._todo))
        if damaged := [shard.uri for shard in self._todo if shard.id in self._committer.damaged]:
            raise ShardsDamaged(
                f"{len(damaged)} of {len(self._todo)} shards are damaged, for example {damaged[0]}; what could be read "
                f"of them is in the table, `mlake rejects {self._config.table}` names the rest; a repaired "
                "shard replaces its rows at the next run"
            )

    def _final_summary(self) -> dict[str, Any]:
        committer, summary = self._committer, self.summary
        summary.shards, summary.rows, summary.rejects = committer.shards, committer.rows, committer.rejects
        summary.commits, summary.commit_s = committer.commits, committer.commit_s
        summary.stages, summary.bound_by = self._stages, self._stages.bound_by
        summary.usage = most_usage(self._workers.usage(), summary.usage)
        summary.advice = advise(summary, self._config)
        return asdict(summary)

    def _progress(self, pool: WorkPool[Lease, LeaseResult]) -> EmbedProgress:
        counters = pool.progress()  # a moment old: what has arrived since may be more
        busy_s = counters.get("busy_ms", 0) / 1000 / pool.actors
        bound_by = "encode" if counters.get("rows") else "start"
        queue, committer = pool.queue(), self._committer
        self.summary.usage = most_usage(Usage.of(counters), self.summary.usage)
        return EmbedProgress(
            shards=self._embedded,
            shards_total=len(self._todo),
            landed=committer.shards,
            landed_rows=committer.rows,
            commits=committer.commits,
            commit_s=committer.commit_s,
            rows=max(counters.get("rows", 0), committer.rows),
            units=max(counters.get("units", 0), self.summary.units),
            unit=_UNITS[self._config.input.modality],
            rejects=max(counters.get("rejects", 0), committer.rejects),
            failed=len(self._failed),
            failed_leases=self.summary.failed_leases,
            open_leases=queue.open_items,
            actors=pool.actors,
            pending_actors=queue.pending_actors,
            usage=self.summary.usage,
            encoder_busy=self._meter.share(busy_s, time.monotonic()),
            bound_by=self._stages.bound_by if self._embedded else bound_by,
            oldest_leases=tuple(
                (lease.shards[0].name, len(lease.shards), round(seconds, 1)) for lease, seconds in queue.oldest
            ),
        )


class BusyMeter:
    """Measures the share of the last seconds in which the encoders worked."""

    def __init__(self, now_s: float) -> None:
        """Start at zero."""
        self._at_s, self._busy_s, self._share = now_s, 0.0, 0.0

    def share(self, busy_s: float, now_s: float) -> float:
        """Return the share over the last two seconds or more.

        Args:
            busy_s: Seconds in which the encoders worked since the start, averaged over the actors.
            now_s: Time of a clock that never goes back.
        """
        passed_s = now_s - self._at_s
        if passed_s >= _BUSY_OVER_S:
            self._share = max(0.0, min(1.0, (busy_s - self._busy_s) / passed_s))
            self._at_s, self._busy_s = now_s, busy_s
        return self._share


def _split(lease: Lease) -> Sequence[Lease]:
    """Split a lease of several shards, so that one that fails costs no other."""
    return [Lease((shard,)) for shard in lease.shards] if len(lease.shards) > 1 else ()


def _is_final(error: BaseException) -> bool:
    return isinstance(error, FieldNotFound | ShardChanged)
