"""What the death of an actor means: who is to blame for it, and how the next one is kept from it.

Owns that judgement. A node that is lost is nobody's fault. For an actor that ran out of memory the work is made
lighter: smaller batches first, then fewer actors on its machine. Ray says which processes it has killed for want of
memory; a process that the kernel killed looks like one that crashed, so there the item is made lighter on trial, and
what helped it is kept for all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray
from ray._raylet import WorkerID
from ray.core.generated.gcs_pb2 import WorkerTableData  # type: ignore[attr-defined]

from cluster.head_watch import answers
from cluster.placement import describe_loss, is_node_alive
from cluster.slots import ActorSlot, Task
from schemas.printable import counted

_LOG = logging.getLogger(__name__)
_NODE_OUT_OF_MEMORY = 4  # WorkerExitType in Ray's common.proto
_STEP = 2  # halvings at once: a start of an actor costs more than a batch that is a little too small
# So many machines may be lost under one item before it is tried alone, and before it counts as their cause.
_LOST_BEFORE_ALONE, _LOST_BEFORE_BLAME = 3, 10


@dataclass(frozen=True)
class Verdict:
    """How an item whose actor has died goes on.

    Attributes:
        is_blamed: The death counts as a failure of the item.
        is_alone: It is tried again with nothing else in flight in its actor.
    """

    is_blamed: bool
    is_alone: bool


_INNOCENT, _UNKNOWN, _BLAMED = Verdict(False, False), Verdict(False, True), Verdict(True, True)


class Deaths:
    """Judges the deaths of a pool's actors.

    Attributes:
        halvings: How often all work halves its batches.
    """

    def __init__(self, most_halvings: int, start_more: Callable[[int], None]) -> None:
        """Nobody has died.

        Args:
            most_halvings: How often the worker can halve its batches.
            start_more: Starts that many actors more.
        """
        self.halvings = 0
        self._most, self._start_more = most_halvings, start_more
        self._relieved: set[str] = set()

    def judge(self, task: Task, slot: ActorSlot, slots: Sequence[ActorSlot], tries_left: int) -> Verdict:
        """Say how a task goes on whose actor has died, and relieve the pool where memory was the cause.

        Args:
            task: Was in flight in the actor.
            slot: Of the actor; not yet told that it is dead.
            slots: All of the pool.
            tries_left: Failures that the task may have before it is given up.
        """
        if slot.is_lost or not answers():
            return _INNOCENT
        was_doubted, task.doubted_node = task.doubted_node, ""
        task.lost_nodes += bool(was_doubted) and not is_node_alive(was_doubted)
        end = _end_of(slot.worker)
        if not is_node_alive(slot.node):
            task.lost_nodes += 1
            if task.lost_nodes < _LOST_BEFORE_ALONE:
                return _INNOCENT
            return _BLAMED if task.lost_nodes >= _LOST_BEFORE_BLAME else _UNKNOWN
        if end is not None and end.is_alive and not (was_doubted and is_node_alive(was_doubted)):
            task.doubted_node = slot.node  # its machine has not said that the process ended, so is perhaps lost as well
            return _INNOCENT
        if reason := _memory_reason(end):
            is_relieved = task.halvings < self.halvings or self._relieve(slot, slots, reason)
            return _INNOCENT if is_relieved else Verdict(task.is_alone, True)
        if not task.is_alone:
            return _UNKNOWN
        if tries_left > 1 and task.halvings < self._most:
            task.halvings = self._most if tries_left == 2 else min(self._most, task.halvings + _STEP)
            return _BLAMED
        if tries_left == 1 and 0 < self._most <= task.halvings and (ended := _end_half(slot, slots)):
            task.ended_actors += ended
            _LOG.warning(
                "a lease has killed its actor %s, also with the smallest batches; it is tried again with %s fewer on "
                "its machine",
                counted(task.failures + 1, "time"),
                counted(ended, "actor"),
            )
            return _UNKNOWN
        return _BLAMED

    def on_done(self, task: Task) -> None:
        """Keep for all work what has helped a task that had killed its actors."""
        if task.halvings > self.halvings:
            self.halvings = task.halvings
            _LOG.warning(
                "a lease killed its actor until it was done with %s: so is all work from now on; set encoder.batch to "
                "start with that",
                self._lighter(task.ended_actors),
            )

    def on_given_up(self, task: Task) -> None:
        """Start the actors again whose end did not help a task."""
        if task.ended_actors:
            self._start_more(task.ended_actors)

    def _relieve(self, slot: ActorSlot, slots: Sequence[ActorSlot], reason: str) -> bool:
        """Take a step against a lack of memory, once for each process that died of it; return whether there was one."""
        if slot.worker in self._relieved:
            return True
        ended = 0
        if self.halvings < self._most:
            self.halvings = min(self._most, self.halvings + _STEP)
        elif not (ended := _end_half(slot, slots)):
            return False
        self._relieved.add(slot.worker)
        _LOG.warning(
            "%s for want of memory (%s); all work goes on with %s; set encoder.batch or cluster.actors lower to start "
            "with that",
            describe_loss(slot.node),
            reason,
            self._lighter(ended),
        )
        return True

    def _lighter(self, ended: int) -> str:
        batches = (
            f"batches of 1/{2**self.halvings} of their size" if self.halvings < self._most else "the smallest batches"
        )
        return f"{batches} and {counted(ended, 'actor')} fewer" if ended else batches


def _end_of(worker: str) -> WorkerTableData | None:
    """Return what Ray knows of the end of a process, by its id; None where it cannot be asked."""
    if not worker or ray.util.client.ray.is_connected():  # type: ignore[no-untyped-call]
        return None
    state = ray._private.state.state._connect_and_get_accessor()
    found = state.get_worker_info(WorkerID.from_hex(worker))
    return WorkerTableData.FromString(found) if found else None


def _memory_reason(end: WorkerTableData | None) -> str:
    """Return why Ray ended a process for want of memory, or nothing if it did not."""
    if end is None or end.exit_type != _NODE_OUT_OF_MEMORY:
        return ""
    _, has, memory = str(end.exit_detail).partition(" was ")
    return memory.splitlines()[0].strip(" .,") if has else "Ray's memory monitor"


def _end_half(slot: ActorSlot, slots: Sequence[ActorSlot]) -> int:
    """End half of the other actors on a machine; return how many."""
    others = [each for each in slots if each.actor is not slot.actor and each.node == slot.node and not each.is_lost]
    ended = others[: -(-len(others) // 2)]
    for each in ended:
        each.end()
    return len(ended)
