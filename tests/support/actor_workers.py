"""Workers that do what a test needs an actor to do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ray

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


class Fragile(Counting):
    """Kills its process for a number below zero, and raises an error for zero."""

    def run(self, item: int) -> int:
        if item < 0:
            time.sleep(0.1)  # so that other items are usually in flight when the process dies
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 0:
            raise LookupError("zero is refused")
        return super().run(item)


class Gated(Counting):
    """Holds numbers from 1000 on until a file exists."""

    def __init__(self, gate: Path) -> None:
        super().__init__()
        self._gate = gate

    def run(self, item: int) -> int:
        while item >= 1000 and not self._gate.exists():
            time.sleep(0.02)
        return super().run(item)


class Freezing(Counting):
    """Stops its process for ever at the first zero, and writes its id; the next zero is a number like others."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._stopped = folder / "stopped"

    def run(self, item: int) -> int:
        if item == 0:
            with suppress(FileExistsError), self._stopped.open("x") as file:
                file.write(str(os.getpid()))
                file.flush()
                os.kill(os.getpid(), signal.SIGSTOP)
        return super().run(item)


class FirstGated(Counting):
    """Holds the first zero until a file exists; the next zero is a number like others."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._held, self._gate = folder / "held", folder / "gate"

    def run(self, item: int) -> int:
        if item == 0:
            with suppress(FileExistsError):
                self._held.touch(exist_ok=False)
                while not self._gate.exists():
                    time.sleep(0.02)
        return super().run(item)


class Crowded(Counting):
    """Lets calls go in groups of `at_once`, and returns how many calls at most were running at the same time."""

    def __init__(self, at_once: int) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._group = threading.Barrier(at_once)
        self._now = self._most = 0

    def run(self, item: int) -> int:
        with self._lock:
            self._now += 1
            self._most = max(self._most, self._now)
        self._group.wait(300)
        time.sleep(0.02)  # a call too many would come in now
        with self._lock:
            self._now -= 1
        return self._most


class Unmakeable(Counting):
    """Raises an error whenever it is made."""

    def __init__(self) -> None:
        raise LookupError("no model here")


class Named(Counting):
    """Returns the id of its process."""

    def run(self, item: int) -> int:
        time.sleep(0.02)
        return os.getpid()


class Placed(Counting):
    """Returns its current directory."""

    def run(self, item: int) -> str:  # type: ignore[override]
        return str(Path.cwd())


class Refusing(Counting):
    """Raises a ConfigError whenever it is made."""

    def __init__(self) -> None:
        raise ConfigError("not with this config")


class UnmakeableOnce(Counting):
    """Raises an error the first time it is made; the file `mark` remembers that."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        if not Path(mark).exists():
            Path(mark).touch()
            raise OSError("the store does not answer")


class Feeding(Counting):
    """Counts up to a number as a feeder; as a worker, adds up the numbers of its feeder or of itself."""

    def feed(self, item: int) -> Iterator[int]:
        if item < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 0:
            raise LookupError("zero is refused")
        yield from iter(range(item))

    def run(self, item: int, parts: Iterator[int] | None = None) -> int:
        return sum(self.feed(item) if parts is None else parts)


class Fed(Feeding):
    """Returns 1 where a feeder has prepared a number, else 0; kills its process for a number below zero."""

    def run(self, item: int, parts: Iterator[int] | None = None) -> int:
        if item < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0 if parts is None else bool(list(parts))


class Heavy(Counting):
    """Is killed when its batches hold more than 20 of 64 inputs; returns how many they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = 64

    def lighten(self, halvings: int) -> None:
        self.batch = 64 >> halvings

    def run(self, item: int) -> int:
        if self.batch > 20:
            self.die()
        return self.batch

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Hoarding(Heavy):
    """Takes memory until Ray ends its process when its batches hold more than 20 of 64 inputs."""

    def die(self) -> None:
        taken = []
        while True:
            taken.append(os.urandom(1 << 20) * 64)
            time.sleep(0.02)


class Crowding(Heavy):
    """Is killed by zero while its job has another actor, also one that starts again; always by a number below zero."""

    def run(self, item: int) -> int:
        if item < 0 or (item == 0 and _actors_of_the_job() > 1):
            self.die()
        return self.batch


def _actors_of_the_job() -> int:
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return sum(actor["State"] != "DEAD" for actor in ray._private.state.actors(job_id=job).values())
