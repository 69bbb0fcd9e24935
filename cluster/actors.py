"""A pool of actors that works through items, bounded in flight, and survives the death of any of them.

Owns placement, starting actors again, and who is to blame when one dies: an actor is given items only after it has said
that its worker is made, so whatever it holds when it dies was truly in its hands. Owns no knowledge of what the items
are: a worker is any object with `run(item)` and `progress()`. Where one machine cannot prepare as fast as it
works, feeders on other machines stream prepared parts of an item to the worker that runs it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from cluster.session import Pool
from schemas.errors import LakeError, RunError

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_PARTS_AHEAD = 2
_MOST_STARTS = 5
_PAUSE_S = 1.0
_LOG = logging.getLogger(__name__)


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
class ItemOutcome(Generic[I, R]):
    """How one item ended.

    Attributes:
        item: As it was given.
        result: What `run` returned, or None.
        error: What `run` raised, or how the actor died, or None.
        died: The actor died, or its node went; nothing is known of the cause.
        was_alone: The actor had nothing else in flight, so if it died, this item is the one to suspect.
    """

    item: I
    result: R | None = None
    error: BaseException | None = None
    died: bool = False
    was_alone: bool = False


@dataclass
class _Seat:
    """One actor and what it works on.

    Attributes:
        asked: The call that waits for the process, or makes the worker, if one is on its way.
        is_there: The process answers; the next call makes the worker.
        is_up: The worker is made.
        is_lost: The worker cannot be made.
        failed_starts: How often it could not since it was last up.
        ask_at: When to ask again.
        tasks: Items in flight by their calls, each with whether it must stay alone.
        watched: The call that asks for counters, if one is on its way.
    """

    actor: Any
    asked: Any = None
    is_there: bool = False
    is_up: bool = False
    is_lost: bool = False
    failed_starts: int = 0
    ask_at: float = 0.0
    tasks: dict[Any, tuple[Any, bool]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    watched: Any = None


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
        self._up_at: float | None = None
        self._past: Counter[str] = Counter()
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

    def run(self, items: Iterable[I], tick_s: float = 0.25) -> Iterator[ItemOutcome[I, R] | None]:
        """Yield the outcome of every item as it ends; None at least every `tick_s` while nothing ends.

        Raises:
            LakeError: No actor can make its worker; what the worker raised, or a RunError that says so.
        """
        self._todo.extend(items)
        while True:
            self._wake()
            self._hand_out()
            at_work = {ref: seat for seat in self._seats for ref in seat.tasks}
            if not at_work and not self._todo and not self._alone:
                return
            waking = {seat.asked: seat for seat in self._seats if seat.asked is not None}
            pending = [*at_work, *waking]
            if not pending:
                time.sleep(tick_s)
            ready = ray.wait(pending, num_returns=1, timeout=tick_s)[0] if pending else []
            if not ready:
                yield None
            for ref in ready:
                if ref in waking:
                    self._welcome(waking[ref])
                else:
                    yield self._collect(at_work[ref], ref)

    def drop_waiting(self) -> int:
        """Forget the items that no actor has begun; return how many."""
        count = len(self._todo) + len(self._alone)
        self._todo.clear()
        self._alone.clear()
        return count

    def progress(self) -> dict[str, int]:
        """Return the sum of all workers' counters, a moment old; never waits."""
        total = Counter(self._past)
        for seat in self._seats:
            if seat.watched is not None and ray.wait([seat.watched], timeout=0)[0]:
                with contextlib.suppress(RayError):
                    seat.counters = ray.get(seat.watched)
                seat.watched = None
            if seat.watched is None and seat.is_up:
                seat.watched = seat.actor.progress.remote()
            total.update(seat.counters)
        return dict(total)

    def up_at(self) -> float | None:
        """Return when the first worker was made, in seconds of the epoch, or None while there is none; never waits."""
        return self._up_at

    def _hand_out(self) -> None:
        for seat in sorted((seat for seat in self._seats if seat.is_up), key=lambda seat: len(seat.tasks)):
            if self._alone and not seat.tasks:
                self._call(seat, self._alone.popleft(), alone=True)
            while (
                self._todo and len(seat.tasks) < self._in_flight and not any(alone for _, alone in seat.tasks.values())
            ):
                self._call(seat, self._todo.popleft(), alone=self._in_flight == 1)

    def _call(self, seat: _Seat, item: I, *, alone: bool) -> None:
        # A suspect is kept from the feeders too, which work for others at the same time.
        feeder = self._feeders[self._calls % len(self._feeders)] if self._feeders and not alone else None
        self._calls += 1
        seat.tasks[seat.actor.run.remote(item, feeder)] = (item, alone)

    def _collect(self, seat: _Seat, ref: Any) -> ItemOutcome[I, R]:
        item, alone = seat.tasks.pop(ref)
        try:
            return ItemOutcome(item, result=ray.get(ref))
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            is_feeder_gone = isinstance(cause, RayError) and not isinstance(cause, RayTaskError)
            return ItemOutcome(item, error=cause, died=is_feeder_gone, was_alone=alone)
        except RayError as error:
            self._mourn(seat)
            return ItemOutcome(item, error=error, died=True, was_alone=alone)

    def _mourn(self, seat: _Seat) -> None:
        """Keep what a dead actor had counted; wait for the one that Ray starts in its place."""
        if seat.is_up:
            self._past.update(seat.counters)
            seat.counters, seat.watched = {}, None
            seat.is_up = seat.is_there = False

    def _wake(self) -> None:
        """Ask actors that are not up: first whether the process is there, which may take long, then for a worker."""
        now = time.monotonic()
        for seat in self._seats:
            if seat.asked is None and not seat.is_up and not seat.is_lost and now >= seat.ask_at:
                seat.asked = seat.actor.start.remote() if seat.is_there else seat.actor.is_there.remote()

    def _welcome(self, seat: _Seat) -> None:
        """Take the answer of an actor that was asked by `_wake`."""
        ref, seat.asked = seat.asked, None
        try:
            answer = ray.get(ref)
        except RayError as error:
            self._excuse(seat, error)
            return
        if not seat.is_there:
            seat.is_there = True
            return
        seat.is_up, seat.failed_starts = True, 0
        self._up_at = min(answer, self._up_at or answer)

    def _excuse(self, seat: _Seat, error: RayError) -> None:
        """Ask again later; not if the actor is gone for good, or has failed to make its worker too often."""
        seat.failed_starts += seat.is_there
        seat.ask_at = time.monotonic() + _PAUSE_S
        cause = (isinstance(error, RayTaskError) and error.cause) or error
        if isinstance(cause, LakeError):
            raise cause from None
        seat.is_there = seat.is_there and isinstance(error, RayTaskError)
        is_gone = not isinstance(error, RayTaskError | ActorUnavailableError)
        if not is_gone and seat.failed_starts < _MOST_STARTS:
            return
        seat.is_lost = True
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        if all(other.is_lost for other in self._seats):
            raise RunError(f"no actor can start; the last one's reason: {reason}") from error
        _LOG.warning("an actor cannot start, the others go on: %s", reason)


class _Actor:
    def __init__(self, make_worker: Callable[[], Any]) -> None:
        self._make_worker = make_worker
        self._lock = threading.Lock()
        self._worker: Any = None
        self._made_at = 0.0

    def is_there(self) -> bool:
        return True

    def start(self) -> float:
        with self._lock:
            if self._worker is None:
                self._worker = self._make_worker()
                self._made_at = time.time()
        return self._made_at

    def run(self, item: Any, feeder: Any) -> Any:
        if feeder is None:
            return self._worker.run(item)
        stream = feeder.feed.options(num_returns="streaming", _generator_backpressure_num_objects=_PARTS_AHEAD)
        parts = stream.remote(item)
        return self._worker.run(item, (ray.get(part) for part in parts))

    @ray.method(concurrency_group="watch")
    def progress(self) -> dict[str, int]:
        counters: dict[str, int] = self._worker.progress()
        return counters


class _FeederActor:
    def __init__(self, make_feeder: Callable[[], Feeder[Any]]) -> None:
        self._feeder = make_feeder()

    def feed(self, item: Any) -> Iterator[Any]:
        for part in self._feeder.feed(item):  # noqa: UP028 - Ray sends into this generator, iterators take nothing
            yield part
