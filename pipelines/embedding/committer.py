"""CommitResult finished leases in the background, many shards a commit, so that no actor waits for a commit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipelines.embedding.embedder import too_many_rejects
from pipelines.storage.retry import retry_transient
from pipelines.tables.table import CommitResult, VectorTable
from schemas.config import EmbedConfig
from schemas.errors import RunError
from schemas.records import DAMAGE, LeaseResult, Reject, Shard

_FEWEST_SEEN, _FEWEST_REJECTED = 1_000, 20


class Committer:
    """Collects lease results and lands them when they are many enough or old enough.

    Attributes:
        shards: Shards landed so far.
        rows: Their rows.
        rejects: Their rejected samples.
        damaged: Shards of which a part could not be read.
        commits: Commits so far.
        commit_s: Seconds spent in them.
    """

    def __init__(self, table: VectorTable, config: EmbedConfig, run: str, *, replace: bool = False) -> None:
        """Start with nothing to land.

        Args:
            table: Where to.
            config: The job; `limits` says how many and how old.
            run: Id of the run, for the audit.
            replace: Land shards that are in the table already, in place of their rows.
        """
        self.shards = self.rows = self.rejects = self.commits = 0
        self.commit_s = 0.0
        self.damaged: set[int] = set()
        self._table, self._config, self._run, self._replace = table, config, run, replace
        self._waiting: list[LeaseResult] = []
        self._oldest = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "land")
        self._landing: Future[CommitResult] | None = None
        self._redo: list[Shard] = []

    def add(self, result: LeaseResult) -> None:
        """Take a finished lease."""
        if not self._waiting:
            self._oldest = time.monotonic()
        self._waiting.append(result)

    def poll(self) -> None:
        """Begin a commit if one is due, and take note of one that has ended; never waits.

        Raises:
            TooManyRejects: Too many samples were rejected; what was not landed by then is not.
            RunError: The store would not take a commit, several times over.
        """
        if self._landing is not None and self._landing.done():
            self._finish(self._landing)
        limits = self._config.limits
        shards = sum(len(result.counts) for result in self._waiting)
        is_old = time.monotonic() - self._oldest >= limits.commit_age_s
        if self._waiting and self._landing is None and (shards >= limits.commit_shards or is_old):
            self._begin(is_last=False)

    def flush(self) -> list[Shard]:
        """Land everything now; return the shards that must be embedded again. Raises as `poll` does."""
        if self._landing is not None:
            self._finish(self._landing)
        if self._waiting:
            self._finish(self._begin(is_last=True))
        redo, self._redo = self._redo, []
        return redo

    def _begin(self, *, is_last: bool) -> Future[CommitResult]:
        batch, self._waiting = self._waiting, []
        rejects = [reject for result in batch for reject in result.rejects]
        rows = sum(count.rows for result in batch for count in result.counts)
        self._check_rejects(rejects, rows, is_last=is_last)
        self.damaged.update(reject.shard for reject in rejects if reject.reason in DAMAGE)
        self._landing = self._thread.submit(self._land, batch)
        return self._landing

    def _check_rejects(self, rejects: Sequence[Reject], rows: int, *, is_last: bool) -> None:
        limit = self._config.limits.max_reject_fraction
        rejected = self.rejects + len(rejects)
        seen = self.rows + rows + rejected
        if not rejects or rejected <= limit * seen or not (is_last or seen >= _FEWEST_SEEN):
            return
        if rejected >= _FEWEST_REJECTED or limit == 0 or rejected == seen:
            raise too_many_rejects(rejects, rejected, seen, self._config)

    def _finish(self, landing: Future[CommitResult]) -> None:
        self._landing = None
        landed = landing.result()
        self.commits += 1
        self.shards += landed.shards
        self.rows += landed.rows
        self.rejects += landed.rejects
        self._redo.extend(landed.redo)

    def _land(self, batch: Sequence[LeaseResult]) -> CommitResult:
        began = time.monotonic()
        try:
            # Whether a commit that failed was carried out or not, trying again is safe: the ledger decides.
            return retry_transient(self._table.uri, lambda: self._table.commit(batch, self._run, replace=self._replace))
        except OSError as error:
            raise RunError(
                f"{self._table.uri} takes no commit: {error}; when the store is well again, run "
                "the same command: shards that have not landed are done again"
            ) from error
        finally:
            self.commit_s += time.monotonic() - began
