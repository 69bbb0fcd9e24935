"""Threads that prepare the samples of one lease. One that hangs is left behind, with the sample that it hangs on."""

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
    """Prepares on threads of its own, so that what hangs in one lease holds up no other. For one caller at a time."""

    def __init__(self, preparer: Preparer, threads: int, timeout_s: float) -> None:
        """Start the threads.

        Args:
            preparer: Called by all of them.
            threads: How many.
            timeout_s: Seconds that samples may take: those of one `submit` together, or, failing that, each alone.
        """
        self._preparer, self._threads, self._timeout_s = preparer, threads, timeout_s
        self._pool = ThreadPool(threads)

    def submit(self, values: Sequence[Raw]) -> Submitted:
        """Begin to prepare samples; returns at once."""
        step = max(1, -(-len(values) // self._threads))
        chunks = [values[start : start + step] for start in range(0, len(values), step)]
        return Submitted(values, self._pool, [self._pool.apply_async(self._preparer.prepare, (c,)) for c in chunks])

    def result(self, submitted: Submitted) -> Sequence[Prepared | BadSample]:
        """Wait for samples; where that takes too long, prepare them one by one, to find the one that hangs."""
        if submitted.pool is not self._pool:  # it may stand in line behind the sample that hangs
            submitted = self.submit(submitted.values)
        try:
            return concatenate([chunk.get(self._timeout_s) for chunk in submitted.chunks])
        except PoolTimeout:
            self._leave_pool()
            return [self._finish_alone(value) for value in submitted.values]

    def close(self) -> None:
        """Let the threads end when they are done."""
        self._pool.close()

    def _finish_alone(self, value: Raw) -> Prepared | BadSample:
        try:
            return self._pool.apply_async(self._preparer.prepare, ([value],)).get(self._timeout_s)[0]
        except PoolTimeout:
            self._leave_pool()
            return BadSample("timeout", f"decoding took longer than limits.sample_timeout_s = {self._timeout_s}")

    def _leave_pool(self) -> None:
        """Take new threads: that of a hung decoder cannot be ended, only left behind."""
        self._pool.close()
        self._pool = ThreadPool(self._threads)
