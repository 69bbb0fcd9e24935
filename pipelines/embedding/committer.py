"""Commit finished leases in the background, many shards in one commit, so that no actor waits for a commit.

Owns when a commit is due and when the run has too many rejects. The commit itself is `tables.ledger.commit_leases`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipelines.embedding.rejects import MIN_SEEN_OF_RUN, check_rejects
from pipelines.tables.ledger import CommitResult, Ledger, commit_leases
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig
from schemas.errors import RunError
from schemas.records import DAMAGE, LeaseResult, Shard


class Committer:
    """Collects lease results and commits them when they are many enough or old enough.

    Attributes:
        shards: Shards committed so far.
        rows: Rows committed so far.
        rejects: Rejects of these shards.
        damaged: Shards of which a part could not be read.
        commits: Commits so far.
        commit_s: Seconds spent in them.
    """

    def __init__(self, table: VectorTable, config: EmbedConfig, run: str, *, replace: bool = False) -> None:
        """Start with nothing to commit.

        Args:
            table: The table that gets the rows.
            config: The job; `limits` says how many shards and how old a commit may be.
            run: Id of the run, for the audit.
            replace: Commit also shards that are in the table, in place of their rows.
        """
        self.shards = self.rows = self.rejects = self.commits = 0
        self.commit_s = 0.0
        self.damaged: set[int] = set()
        self._table, self._config, self._run, self._replace = table, config, run, replace
        self._ledger: Ledger | None = None
        self._waiting: list[LeaseResult] = []
        self._oldest = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "commit")
        self._committing: Future[CommitResult] | None = None
        self._redo: list[Shard] = []

    def add(self, result: LeaseResult) -> None:
        """Add a finished lease to the next commit."""
        if not self._waiting:
            self._oldest = time.monotonic()
        self._waiting.append(result)

    def poll(self) -> None:
        """Start a commit if one is due, and count one that has ended; never waits.

        Raises:
            TooManyRejects: The rejects pass the limit; leases that are not committed by then stay uncommitted.
            RunError: The store refused a commit several times.
        """
        if self._committing is not None and self._committing.done():
            self._finish(self._committing)
        limits = self._config.limits
        shards = sum(len(result.counts) for result in self._waiting)
        is_old = time.monotonic() - self._oldest >= limits.commit_age_s
        if self._waiting and self._committing is None and (shards >= limits.commit_shards or is_old):
            self._start(is_last=False)

    def flush(self) -> list[Shard]:
        """Commit everything now; return the shards that must be embedded again. Raises as `poll` does."""
        if self._committing is not None:
            self._finish(self._committing)
        if self._waiting:
            self._finish(self._start(is_last=True))
        redo, self._redo = self._redo, []
        return redo

    def _start(self, *, is_last: bool) -> Future[CommitResult]:
        batch, self._waiting = self._waiting, []
        rejects = [reject for result in batch for reject in result.rejects]
        rejected = self.rejects + len(rejects)
        seen = self.rows + sum(count.rows for result in batch for count in result.counts) + rejected
        limit = self._config.limits.max_reject_fraction
        check_rejects(rejects, rejected, seen, limit, min_seen=0 if is_last else MIN_SEEN_OF_RUN)
        self.damaged.update(reject.shard for reject in rejects if reject.reason in DAMAGE)
        self._committing = self._thread.submit(self._commit, batch)
        return self._committing

    def _finish(self, committing: Future[CommitResult]) -> None:
        self._committing = None
        committed = committing.result()
        self.commits += 1
        self.shards += committed.shards
        self.rows += committed.rows
        self.rejects += committed.rejects
        self._redo.extend(committed.redo)

    def _commit(self, batch: Sequence[LeaseResult]) -> CommitResult:
        began = time.monotonic()
        try:
            self._ledger = self._ledger or Ledger(self._table)
            committed = commit_leases(self._table, batch, self._run, replace=self._replace, ledger=self._ledger)
            self._ledger.merge_small()
            return committed
        except OSError as error:
            raise RunError(
                f"{self._table.uri} takes no commit: {error}; when the store works again, run the same command: "
                "shards that are not in the table are embedded again"
            ) from error
        finally:
            self.commit_s += time.monotonic() - began
