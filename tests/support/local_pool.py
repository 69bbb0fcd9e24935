"""A pool of one worker in this process, which obeys the retry policy as a pool of actors does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic

from schemas.work import I, Outcome, PoolQueue, R, RetryPolicy, Worker


class LocalPool(Generic[I, R]):
    """Runs items one after the other.

    Attributes:
        done: The items that were done.
    """

    def __init__(
        self,
        worker: Worker[I, R],
        error_of: Callable[[I], BaseException | None] = lambda item: None,
        actors: int = 1,
    ) -> None:
        """Start with nothing to do.

        Args:
            worker: Runs the items.
            error_of: Returns the error with which an item fails before the worker gets it, or None.
            actors: How many actors the pool pretends to have.
        """
        self.actors = actors
        self._worker, self._error_of = worker, error_of
        self._waiting: list[tuple[I, int]] = []
        self.done: list[I] = []

    def run(
        self, items: Iterable[I], retry: RetryPolicy[I] | None = None, tick_s: float = 0.25
    ) -> Iterator[Outcome[I, R] | None]:
        policy = retry or RetryPolicy()
        self._waiting += [(item, 0) for item in items]
        while self._waiting:
            yield None
            if not self._waiting:  # dropped meanwhile
                return
            item, failures = self._waiting.pop(0)
            try:
                if error := self._error_of(item):
                    raise error
                result = self._worker.run(item)
            except Exception as error:
                policy.on_failure(error)
                parts = [(part, 0) for part in policy.split(item)]
                is_given_up = failures + 1 >= policy.max_tries or policy.is_final(error)
                if not parts and is_given_up:
                    yield Outcome(item, error=error)
                self._waiting += parts or ([] if is_given_up else [(item, failures + 1)])
            else:
                self.done.append(item)
                yield Outcome(item, result=result)

    def drop_waiting(self) -> int:
        count = len(self._waiting)
        self._waiting.clear()
        return count

    def progress(self) -> dict[str, int]:
        return self._worker.progress()

    def queue(self) -> PoolQueue:
        return PoolQueue(open_items=len(self._waiting))

    def up_at(self) -> float | None:
        return None
