"""Run an iterator ahead of its consumer in a thread, bounded, and measure which side waits.

Owns one thread per `Prefetcher`. Knows nothing of what the items are.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.2


class Prefetcher(Generic[T]):
    """Iterate a source in its own thread, at most `depth` items ahead of the consumer.

    An error of the source is raised in the consumer, at the place where the item would have come. Closing the
    consumer, or leaving its loop early, ends the thread. A thread that ends without a word raises a RuntimeError
    in the consumer, which would wait for ever.

    Attributes:
        waited_s: Seconds that the consumer waited for the source. They grow if the source is the slower side.
        blocked_s: Seconds that the source waited for the consumer. They grow if the consumer is the slower side.
    """

    def __init__(self, source: Iterable[T], depth: int, name: str) -> None:
        """Start the thread.

        Args:
            source: Iterated in the thread; a generator is closed there too.
            depth: Items that may wait for the consumer at most.
            name: Name of the thread, as profilers show it.
        """
        self.waited_s = self.blocked_s = 0.0
        self._source = source
        self._items: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        """Yield the source's items in order."""
        try:
            while True:
                began = time.perf_counter()
                item = self._next()
                self.waited_s += time.perf_counter() - began
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item[0]
        finally:
            self.close()

    def close(self) -> None:
        """Stop the thread after its present item."""
        self._closed.set()

    def _next(self) -> tuple[T] | BaseException | None:
        while True:
            was_alive = self._thread.is_alive()
            try:
                return self._items.get(timeout=_POLL_S)
            except queue.Empty:
                if not was_alive:
                    return RuntimeError(f"the thread {self._thread.name!r} ended before its source did")

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            self._put_items()
        except BaseException as error:  # of any kind: the consumer must see it
            end = error
        self._put(end)

    def _put_items(self) -> None:
        iterator = iter(self._source)
        try:
            for item in iterator:
                if not self._put((item,)):
                    return
        finally:
            if close := getattr(iterator, "close", None):
                close()

    def _put(self, item: tuple[T] | BaseException | None) -> bool:
        began = time.perf_counter()
        try:
            while not self._closed.is_set():
                try:
                    self._items.put(item, timeout=_POLL_S)
                except queue.Full:
                    continue
                return True
            return False
        finally:
            self.blocked_s += time.perf_counter() - began
