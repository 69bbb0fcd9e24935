"""A pool returns the outcome of every item, also when its actors raise errors or die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.actors import ActorPool, ItemOutcome
from cluster.session import Pool
from schemas.errors import ConfigError, RunError
from tests.support.actor_workers import (
    Counting,
    Crowded,
    Feeding,
    Gated,
    Mortal,
    Named,
    Refusing,
    Stillborn,
    StillbornOnce,
)
from tests.support.drivers import wait_until

pytestmark = pytest.mark.usefixtures("local_ray")


def pool_of(actors: int = 1, in_flight: int = 2, feeders: int = 0) -> Pool:
    return Pool(actors, cpus=0.1, gpus=0, threads=1, in_flight=in_flight, feeders=feeders)


def work(
    make: Callable[[], Any], items: Iterable[int], pool: Pool, again: int = 0, **options: Any
) -> list[ItemOutcome[int, int]]:
    """Run items; push those whose actor died again, alone, `again` times in all."""
    outcomes = []
    with ActorPool[int, int](make, pool, **options) as actors:
        for outcome in actors.run(items):
            if outcome is None:
                continue
            outcomes.append(outcome)
            if outcome.died and again:
                again -= 1
                actors.push(outcome.item, alone=True)
    return outcomes


def results(outcomes: Iterable[ItemOutcome[int, int]]) -> list[tuple[int, int]]:
    return sorted((outcome.item, outcome.result) for outcome in outcomes if outcome.result is not None)


def squares(items: Iterable[int]) -> list[tuple[int, int]]:
    return [(item, item * item) for item in items]


def test_every_item_is_done_once() -> None:
    assert results(work(Counting, range(50), pool_of(actors=2))) == squares(range(50))


def test_no_items_is_no_work() -> None:
    assert work(Counting, [], pool_of()) == []


def test_all_actors_work_though_one_comes_later() -> None:
    processes = set()
    with ActorPool[int, int](Named, pool_of(actors=2)) as actors:
        for outcome in actors.run(range(200_000)):  # more than one actor could do before the other is there
            if outcome is not None:
                processes.add(outcome.result)
            if len(processes) == 2:
                actors.drop_waiting()
    assert len(processes) == 2


def test_so_many_items_are_at_work_at_once_and_no_more() -> None:
    for in_flight in (1, 3):
        outcomes = work(partial(Crowded, in_flight), range(12), pool_of(in_flight=in_flight))
        most = [outcome.result or 0 for outcome in outcomes]
        assert max(most) == in_flight


def test_what_a_worker_raises_is_the_outcome_of_its_item_alone() -> None:
    outcomes = work(Mortal, range(6), pool_of())
    assert results(outcomes) == squares(range(1, 6))
    (failed,) = (outcome for outcome in outcomes if outcome.error is not None)
    assert failed.item == 0
    assert isinstance(failed.error, LookupError)
    assert not failed.died


def test_an_item_that_kills_its_actor_harms_no_other() -> None:
    items = [1, 2, -1, 3, 4, 5]
    outcomes = work(Mortal, items, pool_of(), again=2)
    assert results(outcomes) == squares([1, 2, 3, 4, 5])
    deaths = [outcome for outcome in outcomes if outcome.died]
    suspects = [outcome for outcome in deaths if outcome.was_alone]
    assert {outcome.item for outcome in suspects} == {-1}  # nobody else is ever alone when an actor dies
    assert len(suspects) >= 1
    assert all(outcome.error is not None for outcome in deaths)


def test_an_actor_killed_from_outside_is_started_again() -> None:
    killed: set[int] = set()
    done = set()
    with ActorPool[int, int](Named, pool_of(actors=2)) as actors:
        for outcome in actors.run(range(60)):
            if outcome is None:
                continue
            if outcome.died:
                assert not outcome.was_alone or outcome.result is None
                actors.push(outcome.item, alone=True)
            elif outcome.result is not None:
                done.add(outcome.item)
                if len(killed) < 2 and outcome.result not in killed:
                    os.kill(outcome.result, signal.SIGKILL)
                    killed.add(outcome.result)
    assert done == set(range(60))
    assert len(killed) == 2


def test_items_may_be_added_and_waiting_ones_dropped_while_it_runs(tmp_path: Path) -> None:
    plan = [1, 2, 1000, 1001, *range(3, 50)]
    with ActorPool[int, int](partial(Gated, tmp_path / "gate"), pool_of()) as actors:
        done = []
        for outcome in actors.run(plan):
            if outcome is None or outcome.result is None:
                continue
            done.append(outcome.item)
            if outcome.item == 2:
                dropped = actors.drop_waiting()
                actors.push(100)
                (tmp_path / "gate").touch()
    assert dropped >= 46
    assert sorted(done) == sorted([*plan[: len(plan) - dropped], 100])


def test_it_yields_none_while_nothing_ends(tmp_path: Path) -> None:
    ticks = 0
    with ActorPool[int, int](partial(Gated, tmp_path / "gate"), pool_of()) as actors:
        for outcome in actors.run([1000], tick_s=0.05):
            ticks += outcome is None
            if ticks == 5:
                (tmp_path / "gate").touch()


def test_counters_add_up_over_actors_and_outlive_them() -> None:
    started_at = time.time()
    with ActorPool[int, int](Mortal, pool_of(actors=2)) as actors:
        assert actors.progress() == {}
        assert actors.up_at() is None
        assert results(outcome for outcome in actors.run(range(1, 21)) if outcome) == squares(range(1, 21))
        wait_until(lambda: actors.progress() == {"done": 20})
        assert [outcome.item for outcome in actors.run([-1]) if outcome] == [-1]
        assert results(outcome for outcome in actors.run(range(1, 6)) if outcome) == squares(range(1, 6))
        wait_until(lambda: actors.progress() == {"done": 25})
        assert started_at <= (actors.up_at() or 0) <= time.time()


def test_workers_that_cannot_be_made_end_the_run_with_their_reason() -> None:
    with pytest.raises(RunError, match=r"no actor can start; .*LookupError: no model here"):
        work(Stillborn, [1, 2, 3], pool_of(actors=2))


def test_a_refusal_of_our_own_is_raised_as_it_is() -> None:
    with pytest.raises(ConfigError, match="not with this config"):
        work(Refusing, [1], pool_of())


def test_a_worker_that_can_be_made_at_the_second_try_is(tmp_path: Path) -> None:
    outcomes = work(partial(StillbornOnce, str(tmp_path / "mark")), range(5), pool_of())
    assert results(outcomes) == squares(range(5))


def test_feeders_prepare_what_workers_run() -> None:
    outcomes = work(Feeding, range(1, 9), pool_of(feeders=1), make_feeder=Feeding)
    assert results(outcomes) == [(item, sum(range(item))) for item in range(1, 9)]


def test_what_a_feeder_raises_is_the_outcome_and_its_death_a_death() -> None:
    outcomes = work(Feeding, [3, 0, -1, 4], pool_of(feeders=1), again=3, make_feeder=Feeding)
    assert results(outcomes) == [(3, 3), (4, 6)]
    (refused,) = (outcome for outcome in outcomes if outcome.item == 0 and not outcome.died)
    assert isinstance(refused.error, LookupError)
    assert {outcome.item for outcome in outcomes if outcome.died and outcome.was_alone} == {-1}


@pytest.fixture(autouse=True)
def no_actor_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0)
