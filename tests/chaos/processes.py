"""Find processes by their ancestry and end those that were started here, by their ids."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal; return whether the process existed."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def descendants(pid: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it may end while it is looked at
                stat = (entry / "stat").read_text()
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        born = children.get(todo.pop(), [])
        found += born
        todo += born
    return found


def command(pid: int) -> str:
    """Return a process's command line, or an empty string once it is gone."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def actors_below(pid: int) -> list[int]:
    """Return the actor processes among the descendants of a process."""
    return [child for child in descendants(pid) if command(child).startswith("ray::_WorkerActor")]


def raylets_below(pid: int) -> list[int]:
    """Return the raylets among the descendants of a process."""
    return [child for child in descendants(pid) if "/raylet/raylet " in command(child)]


def end_tree(pid: int) -> None:
    """Kill a process and all that descend from it."""
    for one in [pid, *descendants(pid)]:
        kill(one)
