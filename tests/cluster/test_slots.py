"""A slot starts its actor in two steps, tries again after a failure, and tells when it is lost."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from cluster.slots import ActorLost, ActorSlot, Task
from schemas.errors import ConfigError


def slot_with_process() -> ActorSlot:
    return ActorSlot(actor=None, has_process=True)


def failure(cause: Exception) -> RayTaskError:
    return RayTaskError("start", "trace", cause)


def test_a_worker_that_cannot_be_made_is_tried_again_a_few_times() -> None:
    slot = slot_with_process()
    for _ in range(4):
        slot.on_start_failed(failure(OSError("no answer")))
    assert (slot.has_process, slot.is_lost) == (True, False)
    with pytest.raises(ActorLost, match="OSError: no answer"):
        slot.on_start_failed(failure(OSError("no answer")))
    assert slot.is_lost


def test_a_refusal_of_ours_is_raised_as_it_is() -> None:
    with pytest.raises(ConfigError, match="not so"):
        slot_with_process().on_start_failed(failure(ConfigError("not so")))


def test_a_process_that_cannot_be_reached_is_asked_again_and_one_that_is_gone_is_lost() -> None:
    slot = slot_with_process()
    slot.on_start_failed(ActorUnavailableError("no route", None))
    assert (slot.has_process, slot.is_lost) == (False, False)
    with pytest.raises(ActorLost):
        slot.on_start_failed(ActorDiedError())


def test_a_slot_has_room_while_it_is_up_and_no_task_runs_alone() -> None:
    slot = slot_with_process()
    assert not slot.has_room(2)
    slot.is_up = True
    slot.tasks["call"] = Task("item")
    assert slot.has_room(2)
    assert not slot.has_room(1)
    slot.tasks["call"].is_alone = True
    assert not slot.has_room(2)


def test_the_counters_of_a_dead_actor_are_returned_once() -> None:
    slot = slot_with_process()
    slot.is_up, slot.counters = True, {"rows": 3}
    assert slot.on_died() == {"rows": 3}
    assert slot.on_died() == {}
    assert not slot.has_process
