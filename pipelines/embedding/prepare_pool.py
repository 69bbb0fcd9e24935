"""A pool of threads that prepares samples with a time-out: one that hangs loses its sample, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import TimeoutError as PoolTimeout
from multiprocessing.pool import AsyncResult, ThreadPool

from pipelines.encoders import BadSample, Prepared, Preparer, Raw, concatenate


@dataclass(frozen=True)
class Submitted:
    """Samples that threads are preparing."""

    values: Sequence[Raw]
    pool: ThreadPool
    chunks: list[AsyncResult[Sequence[Prepared | BadSample]]]


class PreparePool:
    """Threads of one lease, so that a sample that hangs holds up no other lease. For one caller at a time."""

    def __init__(self, preparer: Preparer, threads: int, timeout_s: float) -> None:
        """Start the threads.

        Args:
            preparer: Called by all of them.
            threads: How many.
            timeout_s: Seconds that the samples of one `submit` may take together; if they take longer, the seconds that
                each of them may take alone.
        """
        self._preparer, self._threads, self._timeout_s = preparer, threads, timeout_s
        self._pool = ThreadPool(threads)

    def submit(self, values: Sequence[Raw]) -> Submitted:
        """Start to prepare samples; returns at once."""
        step = max(1, -(-len(values) // self._threads))
        chunks = [values[start : start + step] for start in range(0, len(values), step)]
        return Submitted(values, self._pool, [self._pool.apply_async(self._preparer.prepare, (c,)) for c in chunks])

    def result(self, submitted: Submitted) -> Sequence[Prepared | BadSample]:
        """Wait for submitted samples; after the time-out prepare them one by one to find the one that hangs."""
        if submitted.pool is not self._pool:  # it may wait in the old pool's queue behind the sample that hangs
            submitted = self.submit(submitted.values)
        try:
            return concatenate([chunk.get(self._timeout_s) for chunk in submitted.chunks])
        except PoolTimeout:
            self._replace_threads()
            return [self._prepare_alone(value) for value in submitted.values]

    def close(self) -> None:
        """Let the threads end when they are done."""
        self._pool.close()

    def _prepare_alone(self, value: Raw) -> Prepared | BadSample:
        try:
            return self._pool.apply_async(self._preparer.prepare, ([value],)).get(self._timeout_s)[0]
        except PoolTimeout:
            self._replace_threads()
            return BadSample("timeout", f"decoding took longer than limits.sample_timeout_s = {self._timeout_s}")

    def _replace_threads(self) -> None:
        """Start new threads: one that hangs in a decoder cannot be ended, so the old ones are abandoned."""
        self._pool.close()
        self._pool = ThreadPool(self._threads)
