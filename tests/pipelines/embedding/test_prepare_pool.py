"""A sample that hangs is found and times out; all others are prepared."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.embedding.prepare_pool import PreparePool
from pipelines.encoders import BadSample, Prepared, Raw


class Hanging:
    """Prepares texts as their lengths; hangs on "hang" until it is let go; says "bad" is bad."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def prepare(self, values: Sequence[Raw]) -> list[Prepared | BadSample]:
        if "hang" in values:
            self.let_go.wait(600)
        return [BadSample("bad", "is bad") if value == "bad" else np.array([len(str(value))]) for value in values]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        return np.ones(len(prepared), np.int64)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    preparer = Hanging()
    yield preparer
    preparer.let_go.set()


def said(prepared: Sequence[Prepared | BadSample]) -> list[object]:
    return [one.reason if isinstance(one, BadSample) else int(one[0]) for one in prepared]


@pytest.mark.parametrize("threads", [1, 3])
def test_samples_come_back_in_their_order(hanging: Hanging, threads: int) -> None:
    with closing(PreparePool(hanging, threads, timeout_s=300)) as pool:
        values = ["a", "bad", *("x" * n for n in range(1, 9))]
        assert said(pool.result(pool.submit(values))) == [1, "bad", *range(1, 9)]
        assert pool.result(pool.submit([])) == []


@pytest.mark.parametrize("threads", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_only_what_hangs_times_out(hanging: Hanging, threads: int) -> None:
    with closing(PreparePool(hanging, threads, timeout_s=1)) as pool:
        first = pool.submit(["a", "hang", "abc", "hang", "bad"])
        second = pool.submit(["ab", "hang"])
        third = pool.submit(["abcd"])
        assert said(pool.result(first)) == [1, "timeout", 3, "timeout", "bad"]
        assert said(pool.result(second)) == [2, "timeout"]
        assert said(pool.result(third)) == [4]


def test_a_pool_does_not_wait_for_the_threads_of_another(hanging: Hanging) -> None:
    with (
        closing(PreparePool(hanging, 1, timeout_s=300)) as stuck,
        closing(PreparePool(hanging, 1, timeout_s=300)) as free,
    ):
        submitted = stuck.submit(["hang"])
        assert said(free.result(free.submit(["abc"]))) == [3]
        assert not submitted.chunks[0].ready()
