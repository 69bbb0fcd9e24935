"""Feeders of a pool: actors of one CPU each that read and prepare for its workers.

Owns when feeders start, which of them an item gets, and when their room goes back to the cluster. A feeder makes work
faster and no work needs it, so a pool never waits for one: an item that finds none is prepared by its own worker. And a
pool whose actors all wait for room holds no feeder, since two pools could wait for each other's room for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from cluster.placement import PoolSize
from cluster.session import enter_folder
from cluster.slots import modules_option
from schemas.printable import counted
from schemas.work import FeedingWorker

_LOG = logging.getLogger(__name__)
_PAUSE_S, _SAY_EVERY_S = 1.0, 60.0


@dataclass
class _Feeder:
    actor: Any
    asked: Any = None
    is_up: bool = False
    ask_at: float = 0.0


class Feeders:
    """The feeders of one pool."""

    def __init__(self, make_feeder: Callable[[], FeedingWorker[Any]] | None, size: PoolSize) -> None:
        """Start none yet.

        Args:
            make_feeder: Called in each; must pickle. None is a pool without feeders.
            size: Of the pool.
        """
        self._class: Any = None
        self._make_feeder = make_feeder
        self._count = size.feeders if make_feeder else 0
        self._feeders: list[_Feeder] = []
        self._given = 0
        self._say_at: float | None = None
        if not self._count:
            return
        options: dict[str, Any] = {
            "num_cpus": 1,
            "max_restarts": -1,
            "max_concurrency": size.in_flight,
            "concurrency_groups": {"watch": 1},
            **modules_option(size),
        }
        self._class = ray.remote(**options)(_FeederActor)

    @property
    def actors(self) -> list[Any]:
        """Handles of the actors that are started, whether they are up or wait for room."""
        return [feeder.actor for feeder in self._feeders]

    def poll(self, say_after_s: float) -> None:
        """Start those that are missing, see which are up, and say now and then how many find no room; never waits."""
        now = time.monotonic()
        for _ in range(self._count - len(self._feeders)):
            self._feeders.append(_Feeder(self._class.remote(self._make_feeder, str(Path.cwd()))))
        for feeder in [feeder for feeder in self._feeders if not feeder.is_up]:
            if feeder.asked is not None and ray.wait([feeder.asked], timeout=0)[0]:
                self._on_answer(feeder, now)
            if feeder.asked is None and not feeder.is_up and now >= feeder.ask_at:
                feeder.asked = feeder.actor.is_alive.remote()
        pending = sum(not feeder.is_up for feeder in self._feeders)
        if not pending:
            self._say_at = None
            return
        self._say_at = now + say_after_s if self._say_at is None else self._say_at
        if now >= self._say_at:
            self._say_at = now + _SAY_EVERY_S
            _LOG.warning(
                "waiting for room: %d of %s, of 1 CPU each; without them the actors prepare by themselves",
                pending,
                counted(self._count, "feeder"),
            )

    def next(self) -> Any:
        """Return the actor that prepares the next item; None where none is up."""
        up = [feeder for feeder in self._feeders if feeder.is_up]
        self._given += 1
        return up[self._given % len(up)].actor if up else None

    def doubt(self) -> None:
        """Ask all of them again whether they are up, since one does not answer."""
        for feeder in self._feeders:
            feeder.is_up, feeder.asked = False, None

    def release(self) -> None:
        """Give their room back to the cluster."""
        for feeder in self._feeders:
            ray.kill(feeder.actor)
        self._feeders, self._say_at = [], None

    def _on_answer(self, feeder: _Feeder, now: float) -> None:
        call, feeder.asked = feeder.asked, None
        try:
            feeder.is_up = bool(ray.get(call))
        except RayError as error:
            feeder.ask_at = now + _PAUSE_S
            if isinstance(error, ActorUnavailableError):
                return  # Ray starts it again
            self._feeders.remove(feeder)
            self._count -= 1
            cause = (isinstance(error, RayTaskError) and error.cause) or error
            _LOG.warning("a feeder cannot start, so there are %d: %s", self._count, " ".join(str(cause).split()))


class _FeederActor:
    def __init__(self, make_feeder: Callable[[], FeedingWorker[Any]], folder: str) -> None:
        enter_folder(folder)
        self._feeder = make_feeder()

    @ray.method(concurrency_group="watch")
    def is_alive(self) -> bool:
        return True

    def feed(self, item: Any, halvings: int) -> Iterator[Any]:
        if halvings:
            self._feeder.lighten(halvings)  # type: ignore[attr-defined]
        for part in self._feeder.feed(item):  # noqa: UP028 - Ray sends into this generator, iterators take nothing
            yield part
