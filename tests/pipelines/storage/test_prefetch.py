"""A source runs ahead of its consumer by a fixed number of items; an error or an early end reaches the other side."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.storage.prefetch import Prefetcher

_GENEROUS_S = 300


@given(st.lists(st.integers() | st.none()), st.integers(1, 5))
def test_every_item_comes_in_order(items: list[int | None], depth: int) -> None:
    assert list(Prefetcher(items, depth, "test")) == items


def test_the_source_runs_ahead_by_its_depth_and_no_further() -> None:
    made = 0
    is_full = threading.Event()

    def source() -> Iterator[int]:
        nonlocal made
        for number in range(10):
            made += 1
            if made == 4:  # three are in the queue, the fourth waits for room
                is_full.set()
            yield number

    stream = Prefetcher(source(), 3, "test")
    assert is_full.wait(_GENEROUS_S)
    time.sleep(0.05)
    assert made == 4
    assert list(stream) == list(range(10))


def test_an_error_of_the_source_comes_where_its_item_would_have() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("third")

    stream = iter(Prefetcher(source(), 5, "test"))
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(LookupError, match="third"):
        next(stream)


class Stubborn:
    """A source that fails outside its items."""

    def __init__(self, fails_in: str) -> None:
        self._fails_in = fails_in

    def __iter__(self) -> Stubborn:
        self._fail("iter")
        return self

    def __next__(self) -> int:
        raise StopIteration

    def close(self) -> None:
        self._fail("close")

    def _fail(self, where: str) -> None:
        if where == self._fails_in:
            raise LookupError(where)


@pytest.mark.parametrize("where", ["iter", "close"])
def test_a_source_that_cannot_begin_or_be_closed_is_an_error_of_the_consumer(where: str) -> None:
    with pytest.raises(LookupError, match=where):
        list(Prefetcher(Stubborn(where), 1, "test"))


def test_a_thread_that_dies_before_its_work_is_an_error_of_the_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise MemoryError

    deaths: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr("threading.excepthook", deaths.append)
    before = threading.gettrace()
    threading.settrace(die)  # runs in each new thread before its target does
    try:
        stream = Prefetcher(range(3), 1, "stillborn")
    finally:
        threading.settrace(before)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="the thread 'stillborn' ended before its source did"):
        list(stream)
    assert [death.exc_type for death in deaths] == [MemoryError]


def test_leaving_early_ends_the_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from count()
        finally:
            closed.set()

    for item in Prefetcher(source(), 2, "left-early"):
        if item == 3:
            break
    assert closed.wait(_GENEROUS_S)
    assert not _lives("left-early")


def test_closing_a_chain_ends_all_of_its_threads() -> None:
    first = Prefetcher(count(), 1, "chain-first")
    second = Prefetcher((item + 1 for item in first), 1, "chain-second")
    assert next(iter(second)) == 1
    second.close()
    first.close()
    assert not _lives("chain-first")
    assert not _lives("chain-second")


def test_a_stream_that_nobody_consumes_ends_when_it_is_closed() -> None:
    stream = Prefetcher(count(), 1, "unread")
    stream.close()
    assert not _lives("unread")


class Clock:
    """A clock that stands still until a test moves it, and knows how often each thread has read it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._reads: Counter[str] = Counter()
        self._was_read = threading.Condition()

    def read(self) -> float:
        with self._was_read:
            self._reads[threading.current_thread().name] += 1
            self._was_read.notify_all()
            return self.now

    def move_after(self, reads: int, thread: str, seconds: float) -> None:
        """Wait until a thread has read the clock so often, then move it."""
        with self._was_read:
            assert self._was_read.wait_for(lambda: self._reads[thread] >= reads, _GENEROUS_S)
            self.now += seconds


def test_the_waits_of_both_sides_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, here = Clock(), threading.current_thread().name
    monkeypatch.setattr("pipelines.storage.prefetch.time.perf_counter", clock.read)

    def slow_source() -> Iterator[int]:
        clock.move_after(1, here, seconds=5.0)  # the consumer began to wait at its first reading
        yield 0

    stream = Prefetcher(slow_source(), 2, "slow-source")
    assert list(stream) == [0]
    assert (stream.waited_s, stream.blocked_s) == (5.0, 0.0)

    stream = Prefetcher(range(2), 1, "fast-source")
    clock.move_after(3, "fast-source", seconds=7.0)  # the source began to wait with its second item
    assert list(stream) == [0, 1]
    assert (stream.waited_s, stream.blocked_s) == (0.0, 7.0)


def _lives(name: str) -> bool:
    """Return whether a thread of that name goes on living."""
    deadline = time.monotonic() + _GENEROUS_S
    while time.monotonic() < deadline:
        if not any(thread.name == name for thread in threading.enumerate()):
            return False
        time.sleep(0.01)
    return True
