"""A source runs ahead of its consumer, so far and no further, and both learn of each other's end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.storage.prefetch import Prefetcher


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
            if made == 4:  # three wait, the fourth stands at the door
                is_full.set()
            yield number

    stream = Prefetcher(source(), 3, "test")
    assert is_full.wait(10)
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
    assert closed.wait(10)
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


def test_who_waits_for_whom_is_measured() -> None:
    def slow_source() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    stream = Prefetcher(slow_source(), 2, "test")
    list(stream)
    assert stream.waited_s > 0.1 > stream.blocked_s
    stream = Prefetcher(range(3), 1, "test")
    for _ in stream:
        time.sleep(0.1)
    assert stream.blocked_s > 0.1 > stream.waited_s


def _lives(name: str) -> bool:
    """Say whether a thread of that name is still there after ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(thread.name == name for thread in threading.enumerate()):
            return False
        time.sleep(0.01)
    return True
