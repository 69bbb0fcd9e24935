"""Progress of a running job: a screen for people, or JSON lines for machines.

Owns how progress looks, how often it is shown, and which of the two a job has: off a terminal it is JSON lines. What
is warned of while a screen is open goes through it. What progress is comes as records.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal, TextIO

from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line
from schemas.records import EmbedProgress
from schemas.redaction import redact

LogFormat = Literal["auto", "screen", "json"]
"""`auto` is a screen in a terminal, and JSON lines on the error stream elsewhere; `json`: lines on standard output."""
_SCREEN_EVERY_S = 0.5
_LINES_EVERY_S = {"auto": 15.0, "json": 5.0}


def json_stream(log: LogFormat) -> TextIO | None:
    """Return where JSON lines go; None where progress is shown to a person."""
    if log == "json":
        return sys.stdout
    return sys.stderr if log == "auto" and not open_console(is_error=True).is_terminal else None


@dataclass
class _Pace:
    """Computes rates over the whole run, and when to show next."""

    every_s: float
    began: float = field(default_factory=time.monotonic)
    shown: float = 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self.shown < self.every_s:
            return False
        self.shown = now
        return True

    def per_second(self, count: int) -> float:
        return count / max(time.monotonic() - self.began, 1e-9)


class _Warnings(logging.Handler):
    """Passes on what is warned of, such as that actors wait for room."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        self._warn(record.getMessage())

    def start(self) -> None:
        logging.getLogger().addHandler(self)

    def stop(self) -> None:
        logging.getLogger().removeHandler(self)


class PersonScreen:
    """A live screen in a terminal; plain lines where there is none."""

    def __init__(self, title: str) -> None:
        """Show nothing yet."""
        self._title, self._warnings = title, _Warnings(self.say)
        self._console = open_console(is_error=True)
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("shards"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task(title, total=None)
        self._live = Live(self._progress, console=self._console, refresh_per_second=4, transient=True)
        self._pace = _Pace(_SCREEN_EVERY_S)

    def __enter__(self) -> PersonScreen:
        """Start to draw."""
        self._live.start()
        self._warnings.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Remove the screen; printed lines stay."""
        self._warnings.stop()
        self._live.stop()

    def name_run(self, run: str) -> None:
        """Do nothing: a person sees one run."""

    def begin(self, step: str) -> None:
        """Show what the job does before there is progress to show."""
        self._progress.update(self._task, description=f"{self._title}: {step}")

    def say(self, text: str) -> None:
        """Print a line above the screen."""
        self._console.print(redact(text))

    def show(self, progress: EmbedProgress, *, is_last: bool = False) -> None:
        """Draw how far the run is."""
        if not (self._pace.is_due() or is_last):
            return
        self._progress.update(
            self._task, description=self._title, completed=progress.shards, total=progress.shards_total
        )
        grid = Table.grid(padding=(0, 2))
        grid.add_row(
            Text.assemble((f"{self._pace.per_second(progress.rows):,.0f}", "cyan"), " rows/s"),
            Text.assemble((f"{self._pace.per_second(progress.units):,.0f}", "cyan"), f" {progress.unit}/s"),
            Text.assemble("landed ", (str(progress.landed), "cyan")),
            Text.assemble("rejects ", (str(progress.rejects), "yellow" if progress.rejects else "cyan")),
            Text.assemble("failed ", (str(progress.failed), "red" if progress.failed else "cyan")),
            Text.assemble("encoder busy ", (f"{progress.encoder_busy:.0%}", "cyan")),
            Text.assemble("bound by ", (progress.bound_by, "cyan")),
        )
        if (usage := progress.usage) is not None:
            about = "~" * (usage.estimated_tokens > 0)
            paid = f"{about}{usage.tokens:,} tokens" if usage.cost is None else f"cost {about}{usage.cost:,.4f}"
            grid.add_row(Text.assemble("server ", (paid, "cyan")))
        self._live.update(Group(self._progress, grid))


class JsonScreen:
    """One JSON object a line: at each step and message, every few seconds while work goes on, and at the end."""

    def __init__(self, title: str, stream: TextIO, every_s: float) -> None:
        """Write nothing yet; `title` names the job in every line."""
        self._names, self._stream = {"job": title}, stream
        self._pace, self._warnings = _Pace(every_s), _Warnings(self._warn)

    def __enter__(self) -> JsonScreen:
        """Take up what is warned of."""
        self._warnings.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the warnings to others; every line is already written."""
        self._warnings.stop()

    def name_run(self, run: str) -> None:
        """Name the run in every later line, as the table's journal does."""
        self._names["run"] = run

    def begin(self, step: str) -> None:
        """Write that a step begins."""
        self._write({"step": step})

    def say(self, text: str) -> None:
        """Write a message line."""
        self._write({"message": redact(text)})

    def show(self, progress: EmbedProgress, *, is_last: bool = False) -> None:
        """Write a line of progress."""
        if self._pace.is_due() or is_last:
            rates = {"rows_per_s": round(self._pace.per_second(progress.rows), 1)}
            rates[f"{progress.unit}_per_s"] = round(self._pace.per_second(progress.units), 1)
            self._write(asdict(progress) | rates)

    def _warn(self, text: str) -> None:
        self._write({"level": "warning", "message": redact(text)})

    def _write(self, record: dict[str, object]) -> None:
        line = {"time": round(time.time(), 3)} | self._names | record
        self._stream.write(json_line(line) + "\n")
        self._stream.flush()


class StepBars:
    """A bar for each step of a job, in a terminal."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=open_console(is_error=True),
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> StepBars:
        """Start to draw."""
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Remove the bars."""
        self._progress.stop()

    def begin(self, title: str, total: int) -> None:
        """Add the bar of a step of `total` items."""
        self._task = self._progress.add_task(title, total=total)

    def advance(self) -> None:
        """Count one item of the last step."""
        if self._task is not None:
            self._progress.advance(self._task)


Screen = PersonScreen | JsonScreen


def open_screen(log: LogFormat, title: str) -> Screen:
    """Return the screen that `--log` asks for; `title` names the job."""
    stream = json_stream(log)
    return PersonScreen(title) if stream is None else JsonScreen(title, stream, _LINES_EVERY_S[log])
