"""A pool of actors that works through items, bounded in flight, and survives the death of any of them.

Owns which actor gets which item, the one retry policy of the project, and which item is blamed when an actor dies.
Work that is late is done by a second actor as well, and the first outcome counts. Owns no knowledge of what the items
are: a worker is any object with `run(item)` and `progress()`. Where one machine cannot prepare as fast as it works,
feeders on other machines stream prepared parts of an item to the worker that runs it. How one actor starts is in
`slots.py`, and which work is late in `stragglers.py`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.deaths import Deaths, Verdict
from cluster.feeders import Feeders
from cluster.head_watch import answers, is_lost, raise_if_lost
from cluster.placement import PoolSize, address_of, describe_loss, explain_no_room, room_for_more
from cluster.slots import ActorLost, ActorSlot, Task, start_slots
from cluster.stragglers import Stragglers
from schemas.errors import NoRoomForActors, RunError
from schemas.printable import counted
from schemas.work import FeedingWorker, I, Outcome, PoolQueue, R, RetryPolicy, Worker

_LOG = logging.getLogger(__name__)
_SAY_EVERY_S, _LOOK_AGAIN_S, _LOOK_FOR_NODES_S = 60.0, 1.0, 5.0
# An actor that has its room may take so long to start and to load its encoder: nothing to be said.
_START_S = 60.0
_OLDEST = 3
# How often an actor is asked for its counters, and how many actors in a second.
_COUNTERS_EVERY_S, _COUNTERS_PER_S = 0.5, 200


class ActorPool(Generic[I, R]):
    """Actors that each hold one worker, which is made once.

    Example:
        >>> with ActorPool(make_worker, size) as actors:  # doctest: +SKIP
        ...     for outcome in actors.run(leases, RetryPolicy(max_tries=3)): ...
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker[I, R]],
        size: PoolSize,
        make_feeder: Callable[[], FeedingWorker[I]] | None = None,
        say_after_s: float = 5.0,
        metric_tags: Mapping[str, str] | None = None,
        stragglers: Stragglers | None = None,
        most_halvings: int = 0,
    ) -> None:
        """Start the actors.

        Args:
            make_worker: Called in each actor; must pickle.
            size: How many actors, and how large.
            make_feeder: Called in each of `size.feeders` actors; must pickle.
            say_after_s: Seconds in which an actor is not up until it is said what it waits for.
            metric_tags: `job` and `run`; with them each actor exports its worker's counters to Prometheus.
            stragglers: Says which items are late, and so are given to an idle actor as well; None repeats none. The
                work must allow to be done twice.
            most_halvings: How often the batches of a worker can be halved when memory runs out; where it is not 0, its
                worker and its feeders are `Lightening`.
        """
        self._in_flight, self._size = size.in_flight, size
        self._began, self._say_after_s = time.monotonic(), say_after_s
        self._say_at = self._began + say_after_s
        self._stragglers = stragglers
        self._start = partial(start_slots, make_worker, metric_tags=metric_tags)
        self._slots = self._start(size)
        self._deaths = Deaths(most_halvings, self._start_more)
        self._look_for_nodes_at = self._began + _LOOK_FOR_NODES_S
        self._feeders = Feeders(make_feeder, size)
        self._up_at: float | None = None
        self._counted_by_dead: Counter[str] = Counter()
        self._waiting: deque[Task] = deque()
        self._waiting_alone: deque[Task] = deque()

    def __enter__(self) -> ActorPool[I, R]:
        """Return the pool."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the actors."""
        if is_lost():
            return
        for actor in (*(slot.actor for slot in self._slots), *self._feeders.actors):
            ray.kill(actor)

    @property
    def actors(self) -> int:
        """How many actors work; feeders are not counted."""
        return len(self._kept_slots())

    def _kept_slots(self) -> list[ActorSlot]:
        return [slot for slot in self._slots if not slot.is_lost] or self._slots

    def _start_more(self, count: int) -> None:
        self._slots += self._start(replace(self._size, actors=count))

    def run(
        self, items: Iterable[I], retry: RetryPolicy[I] | None = None, tick_s: float = 0.25
    ) -> Iterator[Outcome[I, R] | None]:
        """Work through items; a failed one is tried again as `retry` says.

        Args:
            items: The work. Leaving the loop early leaves the rest in the pool.
            retry: When a failed item is tried again; by default up to three times.
            tick_s: Longest pause between two yields.

        Yields:
            The outcome of every item, once, when it is done or given up; None in between, at least every `tick_s`.

        Raises:
            LakeError: No actor can make its worker: what the worker raised, or a RunError with the reason.
            NoRoomForActors: No node of the cluster is large enough for an actor.
            ClusterLost: The head of the cluster does not answer any more.
        """
        policy = retry or RetryPolicy()
        self._waiting.extend(Task(item) for item in items)
        while True:
            raise_if_lost()
            for slot in self._slots:
                slot.poll_starting()
            self._say_who_is_waited_for()
            self._grow()
            self._poll_feeders()
            self._assign()
            working = {call: slot for slot in self._slots for call in slot.tasks}
            is_open = any(not task.is_done for slot in self._slots for task in slot.tasks.values())
            if not (is_open or self._waiting or self._waiting_alone):
                return
            starting = {slot.starting: slot for slot in self._slots if slot.starting is not None}
            pending = [*working, *starting]
            if not pending:
                time.sleep(tick_s)
            ready = ray.wait(pending, num_returns=1, timeout=tick_s)[0] if pending else []
            if not ready:
                yield None
                continue
            # All that has ended, since a turn of this loop looks at every actor.
            for call in ray.wait(pending, num_returns=len(pending), timeout=0)[0]:
                if call in working:
                    yield self._take_result(working[call], call, policy)
                elif starting[call].starting is call:
                    self._on_started(starting[call])

    def drop_waiting(self) -> int:
        """Drop the items that no actor has started; return how many."""
        count = len(self._waiting) + len(self._waiting_alone)
        self._waiting.clear()
        self._waiting_alone.clear()
        return count

    def progress(self) -> dict[str, int]:
        """Return the sum of all workers' counters, a moment old, those of dead actors included; never waits."""
        asked = {slot.counters_call: slot for slot in self._slots if slot.counters_call is not None}
        for call in ray.wait([*asked], num_returns=len(asked), timeout=0)[0] if asked else []:
            asked[call].take_counters()
        total = Counter(self._counted_by_dead)
        for slot in self._slots:
            slot.ask_counters(max(_COUNTERS_EVERY_S, len(self._slots) / _COUNTERS_PER_S))
            total.update(slot.counters)
        return dict(total)

    def _open_tasks(self) -> list[Task]:
        """Return the tasks in flight that have no outcome yet, each once."""
        tasks = (task for slot in self._slots for task in slot.tasks.values() if not task.is_done)
        return list({id(task): task for task in tasks}.values())

    def _pending(self) -> int:
        return sum(not (slot.is_up or slot.is_lost) for slot in self._slots)

    def queue(self) -> PoolQueue:
        """Return what is open; never waits."""
        open_tasks = self._open_tasks()
        now, longest = time.monotonic(), sorted(open_tasks, key=lambda task: task.began_s)[:_OLDEST]
        oldest = tuple((task.item, now - task.began_s) for task in longest)
        return PoolQueue(len(self._waiting) + len(self._waiting_alone) + len(open_tasks), self._pending(), oldest)

    def up_at(self) -> float | None:
        """Return when the first worker was ready, in seconds since the epoch, or None while none is; never waits."""
        return self._up_at

    def _say_who_is_waited_for(self) -> None:
        """Say now and then what actors wait for.

        Raises:
            NoRoomForActors: No node was large enough for any of them for `size.wait_s`.
        """
        now = time.monotonic()
        kept = self._kept_slots()
        unplaced = sum(not slot.has_process for slot in kept)
        if not self._pending():
            self._say_at = now + self._say_after_s
            return
        if now < self._say_at:
            return
        self._say_at = now + _SAY_EVERY_S
        is_early = now - self._began < _START_S
        if not unplaced and is_early:
            self._say_at = now + _LOOK_AGAIN_S
            return
        if not unplaced:
            if not any(slot.is_up for slot in self._slots):
                _LOG.warning("waiting until one of %s has loaded what it needs", counted(len(kept), "actor"))
            return
        if not answers():
            return
        no_room = explain_no_room(self._size, unplaced)
        if not no_room.is_over and self._feeders.actors and unplaced == len(kept):
            self._feeders.release()
        if no_room.is_over:
            self._say_at = now + max(self._say_after_s, _LOOK_AGAIN_S)
            if is_early:
                return
        if no_room.is_for_ever and unplaced == len(kept):
            left_s = self._began + self._size.wait_s - now
            if left_s <= 0:
                raise NoRoomForActors(f"{no_room.text}; then run the same command again")
            self._say_at = min(self._say_at, now + left_s)
            _LOG.warning("%s; the run ends in %.0f s (cluster.wait_for_node_s)", no_room.text, left_s)
            return
        _LOG.warning("%s", no_room.text)

    def _grow(self) -> None:
        """Start actors on nodes that have joined the cluster, while there is work that no actor has."""
        now = time.monotonic()
        if not (self._size.grows and self._waiting) or now < self._look_for_nodes_at:
            return
        self._look_for_nodes_at = now + _LOOK_FOR_NODES_S
        if self._pending() or not answers() or not (more := room_for_more(self._size)):
            return
        self._start_more(more)
        self._size = replace(self._size, actors=len(self._slots))
        _LOG.warning("the cluster has grown: actors: %d more, %d in all", more, len(self._slots))

    def _assign(self) -> None:
        """Give waiting tasks to the actors that have room, the least busy first."""
        for slot in sorted(self._slots, key=lambda slot: len(slot.tasks)):
            if self._waiting_alone and slot.is_up and not slot.tasks:
                self._give(slot, self._waiting_alone.popleft(), None)  # no feeder: it works for other items as well
            while self._waiting and slot.has_room(self._in_flight):
                task = self._waiting.popleft()
                task.is_alone = self._in_flight == 1
                self._give(slot, task, None if task.is_alone else self._feeders.next())
        self._repeat_late()

    def _give(self, slot: ActorSlot, task: Task, feeder: Any) -> None:
        task.halvings = max(task.halvings, self._deaths.halvings)
        slot.assign(task, feeder)

    def _repeat_late(self) -> None:
        """Give late tasks to actors that have nothing else to do as well."""
        if self._stragglers is None or self._waiting or self._waiting_alone:
            return
        idle = [slot for slot in self._slots if slot.is_up and not slot.tasks]
        late = self._stragglers.late(self._open_tasks(), time.monotonic()) if idle else []
        for slot, task in zip(idle, late, strict=False):
            running_s = time.monotonic() - task.began_s
            node = next((each.node for each in self._slots if task in each.tasks.values()), "")
            self._give(slot, task, None if task.is_alone else self._feeders.next())
            _LOG.warning(
                "one lease has run for %.0f s%s, much longer than others of its size; another actor does it too, and "
                "the first outcome counts",
                running_s,
                f" on node {address}" if (address := address_of(node)) else "",
            )

    def _poll_feeders(self) -> None:
        """Start feeders, and see which are up; actors come first, since they must have room and feeders need not."""
        placed = sum(slot.has_process for slot in self._slots)
        is_late = time.monotonic() - self._began >= _START_S
        if placed and (is_late or placed == sum(not slot.is_lost for slot in self._slots)):
            self._feeders.poll(self._say_after_s)

    def _on_started(self, slot: ActorSlot) -> None:
        try:
            made_at = slot.on_started()
        except ActorLost as lost:
            if all(other.is_lost for other in self._slots):
                raise RunError(f"no actor can start; the last one's reason: {lost}") from lost.__cause__
            _LOG.warning("an actor cannot start, the others continue: %s", lost)
            return
        if made_at is not None:
            self._up_at = min(made_at, self._up_at or made_at)

    def _take_result(self, slot: ActorSlot, call: Any, policy: RetryPolicy[I]) -> Outcome[I, R] | None:
        task, node = slot.tasks.pop(call), slot.node
        task.calls -= 1
        is_open = not (task.is_done or task.calls)  # no other actor does it as well, or has done it
        try:
            result = ray.get(call)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            is_feeder_gone = isinstance(cause, RayError) and not isinstance(cause, RayTaskError)
            if is_feeder_gone:
                self._feeders.doubt()
            verdict = Verdict(task.is_alone or not is_feeder_gone, is_alone=is_feeder_gone)
            return self._retry(task, cause, policy, verdict, died=is_feeder_gone) if is_open else None
        except RayError as error:
            tries_left = policy.max_tries - task.failures
            judged = self._deaths.judge(task, slot, self._slots, tries_left) if is_open else None
            if slot.is_up and answers():
                loss = describe_loss(node) + (", and perhaps its node is lost" if task.doubted_node else "")
                _LOG.warning("%s; what it worked on is done by others", loss)
            self._counted_by_dead.update(slot.on_died())
            return self._retry(task, error, policy, judged, died=True) if judged else None
        if task.is_done:
            return None
        task.is_done = True
        self._deaths.on_done(task)
        if self._stragglers is not None:
            self._stragglers.note(task, time.monotonic())
        return Outcome(task.item, result=result)

    def _retry(
        self, task: Task, error: BaseException, policy: RetryPolicy[I], verdict: Verdict, *, died: bool
    ) -> Outcome[I, R] | None:
        """Queue a failed task again, or give it up."""
        policy.on_failure(error)
        queue = self._waiting_alone if verdict.is_alone else self._waiting
        is_innocent = died and not (verdict.is_blamed or verdict.is_alone)
        if not is_innocent and (parts := policy.split(task.item)):
            queue.extend(Task(part, is_alone=verdict.is_alone, lost_nodes=task.lost_nodes) for part in parts)
            return None
        failures = task.failures + verdict.is_blamed
        if failures >= policy.max_tries or (not died and policy.is_final(error)):
            self._deaths.on_given_up(task)
            return Outcome(task.item, error=error, died=died)
        queue.append(replace(task, failures=failures, is_alone=verdict.is_alone, began_s=0.0))
        return None
