"""What a run shows while it works: one screen for people, or JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

LogFormat = Literal["screen", "json"]
_EVERY_S = {"screen": 0.5, "json": 5.0}


@dataclass(frozen=True)
class Snapshot:
    """Where a run stands.

    Attributes:
        shards: Shards embedded, of `shards_total`.
        landed: Shards whose rows are visible.
        rows: Rows encoded.
        units: Tokens or images encoded (`unit`).
        rejects: Samples that could not be embedded.
        failed: Shards given up.
        encoder_busy: Share of the last moments in which the encoders worked.
        bound_by: What the run waits for: encode, read, prepare, write, or start (no actor is up yet).
    """

    shards: int = 0
    shards_total: int = 0
    landed: int = 0
    rows: int = 0
    units: int = 0
    unit: str = "tokens"
    rejects: int = 0
    failed: int = 0
    encoder_busy: float = 0.0
    bound_by: str = "start"


class Screen(Protocol):
    """Where a run shows itself."""

    def __enter__(self) -> Screen:
        """Begin to show."""
        ...

    def __exit__(self, *exc: object) -> None:
        """End showing."""
        ...

    def say(self, text: str) -> None:
        """Tell a person something once."""
        ...

    def show(self, snapshot: Snapshot, *, is_last: bool = False) -> None:
        """Show where the run stands; cheap enough to call at every turn of a loop."""
        ...


@dataclass
class _Pace:
    """Rates over the whole run, and when to show next."""

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


class PersonScreen:
    """A live screen in a terminal; plain lines where there is none."""

    def __init__(self, title: str) -> None:
        """Show nothing yet."""
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
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
        self._pace = _Pace(_EVERY_S["screen"])

    def __enter__(self) -> PersonScreen:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the drawing away; what was said stays."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the drawing."""
        self._console.print(text, highlight=False)

    def show(self, snapshot: Snapshot, *, is_last: bool = False) -> None:
        """Redraw."""
        if not (self._pace.is_due() or is_last):
            return
        self._progress.update(self._task, completed=snapshot.shards, total=snapshot.shards_total)
        grid = Table.grid(padding=(0, 2))
        grid.add_row(
            f"[cyan]{self._pace.per_second(snapshot.rows):,.0f}[/] rows/s",
            f"[cyan]{self._pace.per_second(snapshot.units):,.0f}[/] {snapshot.unit}/s",
            f"landed [cyan]{snapshot.landed}[/]",
            f"rejects [{'yellow' if snapshot.rejects else 'cyan'}]{snapshot.rejects}[/]",
            f"failed [{'red' if snapshot.failed else 'cyan'}]{snapshot.failed}[/]",
            f"encoder busy [cyan]{snapshot.encoder_busy:.0%}[/]",
            f"bound by [cyan]{snapshot.bound_by}[/]",
        )
        self._live.update(Group(self._progress, grid))


class JsonScreen:
    """One JSON object a line on stdout, every five seconds and at the end."""

    def __init__(self, title: str) -> None:
        """Remember what the lines are of."""
        self._title = title
        self._pace = _Pace(_EVERY_S["json"])

    def __enter__(self) -> JsonScreen:
        """Begin."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End."""

    def say(self, text: str) -> None:
        """Write a message line."""
        self._write({"message": text})

    def show(self, snapshot: Snapshot, *, is_last: bool = False) -> None:
        """Write a snapshot line."""
        if self._pace.is_due() or is_last:
            rates = {"rows_per_s": round(self._pace.per_second(snapshot.rows), 1)}
            rates[f"{snapshot.unit}_per_s"] = round(self._pace.per_second(snapshot.units), 1)
            self._write(asdict(snapshot) | rates)

    def _write(self, record: dict[str, object]) -> None:
        line = {"time": round(time.time(), 3), "job": self._title} | record
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class BusyMeter:
    """Share of wall-clock in which the encoders worked, over the last moments."""

    def __init__(self) -> None:
        """Start at zero."""
        self._at, self._busy_s, self._share = time.monotonic(), 0.0, 0.0

    def share(self, busy_s: float) -> float:
        """Take note of the busy seconds so far; return their share of the last two seconds or more."""
        now = time.monotonic()
        if now - self._at >= 2:
            self._share = max(0.0, min(1.0, (busy_s - self._busy_s) / (now - self._at)))
            self._at, self._busy_s = now, busy_s
        return self._share


def open_screen(log: LogFormat, title: str) -> Screen:
    """Return the screen that `--log` asks for."""
    return JsonScreen(title) if log == "json" else PersonScreen(title)
