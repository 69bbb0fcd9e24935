"""A pool of actors that works through items, bounded in flight, and survives the death of any of them.

Owns placement, retries of calls that Ray itself lost, and who is to blame when an actor dies. Owns no knowledge of what
the items are: a worker is any object with `run(item)` and `progress()`. Where one machine cannot prepare as fast as it
works, feeders on other machines stream prepared parts of an item to the worker that runs it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from cluster.session import Pool

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_BACK_OFF_S = 1.0
_PARTS_AHEAD = 2


class Worker(Protocol[I_contra, R_co]):
    """What lives in an actor."""

    def run(self, item: I_contra) -> R_co:
        """Do one item; up to `Pool.in_flight` run at once, in threads. With feeders it is `run(item, parts)`."""
        ...

    def progress(self) -> dict[str, int]:
        """Return counters since the start; called while `run` works."""
        ...


class Feeder(Protocol[I_contra]):
    """What lives in a feeder actor."""

    def feed(self, item: I_contra) -> Iterator[Any]:
        """Yield the parts of an item; they travel through Ray's object store, a few at a time."""
        ...


@dataclass(frozen=True)
class Outcome(Generic[I, R]):
    """How one item ended.

    Attributes:
        item: As it was given.
        result: What `run` returned, or None.
        error: What `run` raised, or how the actor died, or None.
        died: The actor died, or its node went; nothing is known of the cause.
    """

    item: I
    result: R | None = None
    error: BaseException | None = None
    died: bool = False


@dataclass
class _Seat:
    """One actor and what it works on."""

    actor: Any
    tasks: dict[Any, Any] = field(default_factory=dict)
    unavailable_until: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    asked: Any = None


class ActorPool(Generic[I, R]):
    """Actors that each hold one worker, which is made once.

    Example:
        >>> with ActorPool(make_worker, pool) as actors:  # doctest: +SKIP
        ...     for outcome in actors.run(leases): ...
    """

    def __init__(
        self, make_worker: Callable[[], Worker[I, R]], pool: Pool, make_feeder: Callable[[], Feeder[I]] | None = None
    ) -> None:
        """Start the actors.

        Args:
            make_worker: Called in each actor; must pickle.
            pool: How many, how large.
            make_feeder: Called in each of `pool.feeders` actors; must pickle.
        """
        options: dict[str, Any] = {
            "num_cpus": pool.cpus,
            "num_gpus": pool.gpus,
            "max_restarts": -1,
            "max_task_retries": 0,
            "max_concurrency": pool.in_flight,
            "concurrency_groups": {"watch": 1},
            "scheduling_strategy": "SPREAD",
        }
        actor_class = ray.remote(**options)(_Actor)
        self._in_flight = pool.in_flight
        self._seats = [_Seat(actor_class.remote(make_worker)) for _ in range(pool.actors)]
        feeding: dict[str, Any] = {"num_cpus": 1, "max_restarts": -1, "max_concurrency": pool.in_flight}
        feeder_class = ray.remote(**feeding)(_FeederActor)
        self._feeders = [feeder_class.remote(make_feeder) for _ in range(pool.feeders if make_feeder else 0)]
        self._calls = 0
        self._made = [seat.actor.made_at.remote() for seat in self._seats]
        self._todo: deque[I] = deque()
        self._alone: deque[I] = deque()

    def __enter__(self) -> ActorPool[I, R]:
        """Return the pool."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the actors."""
        for actor in (*(seat.actor for seat in self._seats), *self._feeders):
            ray.kill(actor)

    def push(self, item: I, *, alone: bool = False) -> None:
        """Add an item while `run` is going.

        Args:
            item: What to do.
            alone: Give it an actor with nothing else in flight, so that if the actor dies, it is to blame.
        """
        (self._alone if alone else self._todo).append(item)

    def run(self, items: Iterable[I], tick_s: float = 0.25) -> Iterator[Outcome[I, R] | None]:
        """Yield the outcome of every item as it ends; None at least every `tick_s` while nothing ends.

        An item whose call Ray could not deliver is given out again by itself; whatever else happens is an outcome.
        """
        self._todo.extend(items)
        while True:
            self._hand_out()
            pending = [ref for seat in self._seats for ref in seat.tasks]
            if not pending and not self._todo and not self._alone:
                return
            if not pending:
                time.sleep(tick_s)
            ready = ray.wait(pending, num_returns=1, timeout=tick_s)[0] if pending else []
            if not ready:
                yield None
            for ref in ready:
                seat = next(seat for seat in self._seats if ref in seat.tasks)
                outcome = self._collect(seat, ref)
                if outcome is not None:
                    yield outcome

    def drop_waiting(self) -> int:
        """Forget the items that no actor has begun; return how many."""
        count = len(self._todo) + len(self._alone)
        self._todo.clear()
        self._alone.clear()
        return count

    def progress(self) -> dict[str, int]:
        """Return the sum of all workers' counters, a moment old; never waits."""
        for seat in self._seats:
            if seat.asked is not None and ray.wait([seat.asked], timeout=0)[0]:
                with contextlib.suppress(RayActorError):
                    seat.counters = ray.get(seat.asked)
                seat.asked = None
            if seat.asked is None:
                seat.asked = seat.actor.progress.remote()
        total: dict[str, int] = {}
        for seat in self._seats:
            for name, amount in seat.counters.items():
                total[name] = total.get(name, 0) + amount
        return total

    def up_at(self) -> float | None:
        """Return when the first worker was made, in seconds of the epoch, or None while there is none; never waits."""
        made, _ = ray.wait(self._made, num_returns=1, timeout=0)
        return cast(float, ray.get(made[0])) if made else None

    def _hand_out(self) -> None:
        now = time.monotonic()
        for seat in sorted(self._seats, key=lambda seat: len(seat.tasks)):
            if now < seat.unavailable_until:
                continue
            if self._alone and not seat.tasks:
                self._call(seat, self._alone.popleft(), alone=True)
            while (
                self._todo and len(seat.tasks) < self._in_flight and not any(alone for _, alone in seat.tasks.values())
            ):
                self._call(seat, self._todo.popleft(), alone=False)

    def _call(self, seat: _Seat, item: I, *, alone: bool) -> None:
        feeder = self._feeders[self._calls % len(self._feeders)] if self._feeders else None
        self._calls += 1
        seat.tasks[seat.actor.run.remote(item, feeder)] = (item, alone)

    def _collect(self, seat: _Seat, ref: Any) -> Outcome[I, R] | None:
        item, alone = seat.tasks.pop(ref)
        try:
            return Outcome(item, result=ray.get(ref))
        except ActorUnavailableError:
            seat.unavailable_until = time.monotonic() + _BACK_OFF_S
            self.push(item, alone=alone)
            return None
        except RayActorError as error:
            seat.unavailable_until = time.monotonic() + _BACK_OFF_S
            return Outcome(item, error=error, died=True)
        except RayTaskError as error:
            return Outcome(item, error=error.cause or error)


class _Actor:
    def __init__(self, make_worker: Callable[[], Any]) -> None:
        self._worker = make_worker()
        self._made_at = time.time()

    def run(self, item: Any, feeder: Any) -> Any:
        if feeder is None:
            return self._worker.run(item)
        stream = feeder.feed.options(num_returns="streaming", _generator_backpressure_num_objects=_PARTS_AHEAD)
        parts = stream.remote(item)
        return self._worker.run(item, (ray.get(part) for part in parts))

    @ray.method(concurrency_group="watch")
    def progress(self) -> dict[str, int]:
        return self._worker.progress()

    @ray.method(concurrency_group="watch")
    def made_at(self) -> float:
        return self._made_at


class _FeederActor:
    def __init__(self, make_feeder: Callable[[], Feeder[Any]]) -> None:
        self._feeder = make_feeder()

    def feed(self, item: Any) -> Iterator[Any]:
        yield from self._feeder.feed(item)
