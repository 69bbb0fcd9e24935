"""Run `python -m jobs …` in a process of its own, as a person does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
MISBEHAVING = ROOT / "tests" / "support" / "misbehaving"
_ENDS_WITHIN_S = 500


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a driver."""

    code: int
    out: str
    err: str


class Driver:
    """A `python -m jobs …` in a new session, as in a terminal of its own."""

    def __init__(
        self, arguments: Sequence[str | Path], folder: Path, environment: Mapping[str, str | None] | None = None
    ) -> None:
        """Start it; its output goes to files in `folder`. An environment variable of None is unset."""
        folder.mkdir(parents=True, exist_ok=True)
        merged = {**os.environ, "COLUMNS": "200", **(environment or {})}
        self._out, self._err = (folder / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs", *map(str, arguments)],
                cwd=ROOT,
                env={name: value for name, value in merged.items() if value is not None},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def output(self) -> str:
        """Return what it has written to stdout so far."""
        return self._out.read_text()

    def interrupt(self) -> None:
        """Press Ctrl-C: send SIGINT to all processes of its session."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self.process.kill()
        self.process.wait(_ENDS_WITHIN_S)

    def end(self) -> Ended:
        """Wait until it ends by itself."""
        code = self.process.wait(_ENDS_WITHIN_S)
        return Ended(code, self._out.read_text(), self._err.read_text())


def run_job(
    arguments: Sequence[str | Path], folder: Path, environment: Mapping[str, str | None] | None = None
) -> Ended:
    """Run a driver to its end."""
    with Driver(arguments, folder, environment) as driver:
        return driver.end()


def shadowing_packages(folder: Path) -> Path:
    """Make packages with the names of ours that refuse to be imported; return their folder."""
    for name in ("jobs", "cluster", "pipelines", "schemas"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('this is the {name} of the user')\n")
    return folder


def wait_until(holds: Callable[[], bool], within_s: float = 500) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: It does not hold within the limit, which is generous: slow machines are no error.
    """
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition does not hold after {within_s} s")
        time.sleep(0.02)
