"""Workers that do what a test needs an actor to do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import ConfigError


class Counting:
    """Squares a number, and counts."""

    def __init__(self) -> None:
        self.done = 0

    def run(self, item: int) -> int:
        self.done += 1
        return item * item

    def progress(self) -> dict[str, int]:
        return {"done": self.done}


class Mortal(Counting):
    """Dies of numbers below zero, refuses zero, takes its time over numbers from 1000 on."""

    def run(self, item: int) -> int:
        if item < 0:
            time.sleep(0.1)  # so that its neighbours are at work when it takes them along
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 0:
            raise LookupError("zero is refused")
        if item >= 1000:
            time.sleep((item - 1000) / 100)
        return super().run(item)


class Crowded(Counting):
    """Returns how many calls were at work at once at most."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._now = self._most = 0

    def run(self, item: int) -> int:
        with self._lock:
            self._now += 1
            self._most = max(self._most, self._now)
        time.sleep(0.05)
        with self._lock:
            self._now -= 1
        return self._most


class Stillborn(Counting):
    """Cannot be made."""

    def __init__(self) -> None:
        raise LookupError("no model here")


class Named(Counting):
    """Says in which process it lives."""

    def run(self, item: int) -> int:
        time.sleep(0.02)
        return os.getpid()


class Refusing(Counting):
    """Refuses its config."""

    def __init__(self) -> None:
        raise ConfigError("not with this config")


class StillbornOnce(Counting):
    """Cannot be made the first time."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        if not Path(mark).exists():
            Path(mark).touch()
            raise OSError("the store is away for a moment")


class Feeding(Counting):
    """A feeder that counts up to a number, and a worker that adds up what it is fed; it feeds itself when alone."""

    def feed(self, item: int) -> Iterator[int]:
        if item < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 0:
            raise LookupError("zero is refused")
        yield from iter(range(item))

    def run(self, item: int, parts: Iterator[int] | None = None) -> int:
        return sum(self.feed(item) if parts is None else parts)
