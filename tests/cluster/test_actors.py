"""A pool returns the outcome of every item, also when its actors raise errors or die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import ray

from cluster.actors import ActorPool
from cluster.placement import PoolSize
from cluster.slots import Task
from cluster.stragglers import Stragglers
from schemas.errors import ConfigError, NoRoomForActors, RunError
from schemas.work import Outcome, PoolQueue, RetryPolicy
from tests.support.actor_workers import (
    Counting,
    Crowded,
    Fed,
    Feeding,
    FirstGated,
    Fragile,
    Freezing,
    Gated,
    Named,
    Placed,
    Refusing,
    Unmakeable,
    UnmakeableOnce,
)
from tests.support.clusters import own_cluster
from tests.support.drivers import ROOT, wait_until

pytestmark = pytest.mark.usefixtures("local_ray")


def size_of(actors: int = 1, in_flight: int = 2, feeders: int = 0) -> PoolSize:
    return PoolSize(actors, cpus=0.1, gpus=0, threads=1, in_flight=in_flight, feeders=feeders)


def work(
    make: Callable[[], Any],
    items: Iterable[int],
    size: PoolSize,
    retry: RetryPolicy[int] | None = None,
    make_feeder: Callable[[], Any] | None = None,
) -> list[Outcome[int, int]]:
    with ActorPool[int, int](make, size, make_feeder) as actors:
        return [outcome for outcome in actors.run(items, retry) if outcome is not None]


def results(outcomes: Iterable[Outcome[int, int]]) -> list[tuple[int, int]]:
    return sorted((outcome.item, outcome.result) for outcome in outcomes if outcome.result is not None)


def squares(items: Iterable[int]) -> list[tuple[int, int]]:
    return [(item, item * item) for item in items]


def test_every_item_is_done_once() -> None:
    assert results(work(Counting, range(50), size_of(actors=2))) == squares(range(50))


def test_no_items_is_no_work() -> None:
    assert work(Counting, [], size_of()) == []


def test_all_actors_work_though_one_comes_later() -> None:
    processes = set()
    with ActorPool[int, int](Named, size_of(actors=2)) as actors:
        for outcome in actors.run(range(200_000)):  # more than one actor could do before the other is there
            if outcome is not None:
                processes.add(outcome.result)
            if len(processes) == 2:
                actors.drop_waiting()
    assert len(processes) == 2


def test_so_many_items_are_at_work_at_once_and_no_more() -> None:
    for in_flight in (1, 3):
        outcomes = work(partial(Crowded, in_flight), range(12), size_of(in_flight=in_flight))
        most = [outcome.result or 0 for outcome in outcomes]
        assert max(most) == in_flight


def test_an_item_whose_worker_raises_is_tried_again_and_given_up() -> None:
    errors: list[BaseException] = []
    outcomes = work(Fragile, range(6), size_of(), RetryPolicy(max_tries=3, on_failure=errors.append))
    assert results(outcomes) == squares(range(1, 6))
    (failed,) = (outcome for outcome in outcomes if outcome.error is not None)
    assert failed.item == 0
    assert isinstance(failed.error, LookupError)
    assert not failed.died
    assert [type(error) for error in errors] == [LookupError] * 3


def test_a_final_error_is_not_tried_again() -> None:
    errors: list[BaseException] = []
    retry = RetryPolicy[int](is_final=lambda error: isinstance(error, LookupError), on_failure=errors.append)
    (failed,) = work(Fragile, [0], size_of(), retry)
    assert isinstance(failed.error, LookupError)
    assert len(errors) == 1


def test_an_item_that_fails_is_split_and_its_good_part_done() -> None:
    retry = RetryPolicy[int](split=lambda item: [0, 7] if item == -5 else ())
    outcomes = work(Fragile, [1, -5, 2], size_of(), retry)
    assert results(outcomes) == squares([1, 2, 7])
    assert [outcome.item for outcome in outcomes if outcome.error is not None] == [0]


def test_what_on_failure_raises_ends_the_run() -> None:
    def refuse(error: BaseException) -> None:
        raise RunError("no more") from error

    with pytest.raises(RunError, match="no more"):
        work(Fragile, [1, 0, 2], size_of(), RetryPolicy(on_failure=refuse))


@pytest.mark.parametrize("max_tries", [1, 2])
def test_an_item_that_kills_its_actor_harms_no_other(max_tries: int) -> None:
    outcomes = work(Fragile, [1, 2, -1, 3, 4, 5], size_of(), RetryPolicy(max_tries))
    assert results(outcomes) == squares([1, 2, 3, 4, 5])  # an item that died beside it is not blamed, not even once
    (failed,) = (outcome for outcome in outcomes if outcome.error is not None)
    assert (failed.item, failed.died) == (-1, True)


def test_an_actor_killed_from_outside_is_started_again() -> None:
    killed: set[int] = set()
    done = set()
    with ActorPool[int, int](Named, size_of(actors=2)) as actors:
        for outcome in actors.run(range(60)):
            if outcome is None:
                continue
            assert outcome.result is not None
            done.add(outcome.item)
            if len(killed) < 2 and outcome.result not in killed:
                os.kill(outcome.result, signal.SIGKILL)
                killed.add(outcome.result)
    assert done == set(range(60))
    assert len(killed) == 2


def test_waiting_items_may_be_dropped_while_it_runs(tmp_path: Path) -> None:
    plan = [1, 2, 1000, 1001, *range(3, 50)]
    with ActorPool[int, int](partial(Gated, tmp_path / "gate"), size_of()) as actors:
        done = []
        for outcome in actors.run(plan):
            if outcome is None or outcome.result is None:
                continue
            done.append(outcome.item)
            if outcome.item == 2:
                dropped = actors.drop_waiting()
                (tmp_path / "gate").touch()
    assert dropped >= 46
    assert sorted(done) == sorted(plan[: len(plan) - dropped])


def test_it_yields_none_while_nothing_ends(tmp_path: Path) -> None:
    ticks = 0
    with ActorPool[int, int](partial(Gated, tmp_path / "gate"), size_of()) as actors:
        for outcome in actors.run([1000], tick_s=0.05):
            ticks += outcome is None
            if ticks == 5:
                (tmp_path / "gate").touch()


def test_counters_add_up_over_actors_and_outlive_them() -> None:
    started_at = time.time()
    with ActorPool[int, int](Fragile, size_of(actors=2)) as actors:
        assert actors.progress() == {}
        assert actors.up_at() is None
        assert results(outcome for outcome in actors.run(range(1, 21)) if outcome) == squares(range(1, 21))
        wait_until(lambda: actors.progress() == {"done": 20})
        assert [outcome.item for outcome in actors.run([-1], RetryPolicy(max_tries=1)) if outcome] == [-1]
        assert results(outcome for outcome in actors.run(range(1, 6)) if outcome) == squares(range(1, 6))
        wait_until(lambda: actors.progress() == {"done": 25})
        assert started_at <= (actors.up_at() or 0) <= time.time()


def test_workers_that_cannot_be_made_end_the_run_with_their_reason() -> None:
    with pytest.raises(RunError, match=r"no actor can start; .*LookupError: no model here"):
        work(Unmakeable, [1, 2, 3], size_of(actors=2))


def test_a_refusal_of_our_own_is_raised_as_it_is() -> None:
    with pytest.raises(ConfigError, match="not with this config"):
        work(Refusing, [1], size_of())


def test_a_worker_that_can_be_made_at_the_second_try_is(tmp_path: Path) -> None:
    outcomes = work(partial(UnmakeableOnce, str(tmp_path / "mark")), range(5), size_of())
    assert results(outcomes) == squares(range(5))


def test_feeders_prepare_what_workers_run() -> None:
    outcomes = work(Feeding, range(1, 9), size_of(feeders=1), make_feeder=Feeding)
    assert results(outcomes) == [(item, sum(range(item))) for item in range(1, 9)]


def test_feeders_that_find_no_room_hold_up_no_work(caplog: pytest.LogCaptureFixture) -> None:
    size = PoolSize(2, cpus=1, gpus=0, threads=1, in_flight=2, feeders=1)
    with ActorPool[int, int](Feeding, size, Feeding, say_after_s=0.0) as actors:
        done = []
        for outcome in actors.run([9] * 20_000, tick_s=0.01):
            done += [outcome.result] if outcome else []
            if "1 feeder" in caplog.text:
                actors.drop_waiting()
    assert set(done) == {36}
    assert "waiting for room: 1 of 1 feeder, of 1 CPU each; without them the actors prepare by" in caplog.text


def test_two_pools_that_wait_for_each_others_room_both_end() -> None:
    size = PoolSize(1, cpus=1, gpus=0, threads=1, in_flight=2, feeders=1)

    def pool() -> ActorPool[int, int]:
        return ActorPool[int, int](Fed, size, Fed, say_after_s=0.2)

    def work_through(pool: ActorPool[int, int]) -> Iterator[Outcome[int, int] | None]:
        with pool:
            yield from pool.run([2, -1, 3], RetryPolicy(1))

    with pool() as first:
        assert any(outcome and outcome.result for outcome in first.run([1] * 100_000))  # its feeder has the last CPU
        first.drop_waiting()
        runs = {name: work_through(each) for name, each in (("a", first), ("b", pool()))}
        done = []
        while runs:  # the first one's actor dies, and the second one's takes its room
            for name, run in list(runs.items()):
                try:
                    outcome = next(run)
                except StopIteration:
                    del runs[name]
                else:
                    done += [(name, outcome.item)] if outcome and outcome.item != 1 else []
    assert sorted(done) == [(name, item) for name in "ab" for item in (-1, 2, 3)]


def test_an_error_of_a_feeder_fails_the_item_and_its_death_blames_no_other() -> None:
    retry = RetryPolicy[int](max_tries=1)
    outcomes = work(Feeding, [3, 0, -1, 4], size_of(feeders=1), retry, make_feeder=Feeding)
    assert results(outcomes) == [(3, 3), (4, 6)]
    failed = {outcome.item: outcome for outcome in outcomes if outcome.error is not None}
    assert isinstance(failed[0].error, LookupError)
    assert (failed.keys(), failed[-1].died) == ({0, -1}, True)


def test_a_frozen_actor_does_not_hold_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    late = Stragglers(weigh=abs, after_s=0.2)
    with ActorPool[int, int](partial(Freezing, tmp_path), size_of(actors=2), stragglers=late) as actors:
        outcomes = [outcome for outcome in actors.run(range(20)) if outcome is not None]
        assert results(outcomes) == squares(range(20))
        assert actors.queue() == PoolQueue()
        assert results(filter(None, actors.run([20, 21]))) == squares([20, 21])
    assert "much longer than others of its size; another actor does it too" in caplog.text
    frozen = int((tmp_path / "stopped").read_text())
    wait_until(lambda: not Path(f"/proc/{frozen}").exists())


def test_of_two_actors_that_do_the_same_the_first_outcome_counts(tmp_path: Path) -> None:
    late = Stragglers(weigh=abs, after_s=0.2)
    with ActorPool[int, int](partial(FirstGated, tmp_path), size_of(actors=2, in_flight=1), stragglers=late) as actors:
        assert results(filter(None, actors.run(range(20)))) == squares(range(20))
        (tmp_path / "gate").touch()
        assert results(filter(None, actors.run(range(20, 200)))) == squares(range(20, 200))
        wait_until(lambda: actors.progress().get("done") == 201)


def test_work_is_late_by_its_size() -> None:
    late = Stragglers(weigh=float, after_s=1.0, factor=3.0)
    small, large, twice = Task(1, calls=1), Task(100, calls=1), Task(2, calls=2)
    assert late.late([small, large], now_s=1e6) == []  # nothing is done, so nothing is known
    for item in (1, 10):
        late.note(Task(item, began_s=0.0), now_s=2.0 * item)
    assert late.late([large, small, twice], now_s=6.5) == [small]
    assert late.late([large, small, twice], now_s=600.5) == [large, small]


def test_workers_are_in_the_folder_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (outcome,) = work(Placed, [1], size_of())
    assert outcome.result == str(tmp_path)


_GROWING = """
import sys
from functools import partial
from pathlib import Path
from cluster.actors import ActorPool
from cluster.placement import plan_pool
from cluster.session import connect
from schemas.config import ClusterConfig
from tests.support.actor_workers import Gated

gate = Path(sys.argv[1])
with connect(), ActorPool(partial(Gated, gate), plan_pool(ClusterConfig(leases_per_actor=1))) as pool:
    done = []
    for outcome in pool.run(range(1000, 1004)):
        if outcome is not None:
            done.append(outcome.result)
        elif pool.actors == 2 and not pool.queue().pending_actors:
            gate.touch()
        elif pool.up_at() is not None:
            gate.with_name("up").touch()
    print(len(done), pool.actors)
"""


@pytest.mark.slow
def test_a_node_that_joins_is_used(tmp_path: Path) -> None:
    with own_cluster() as cluster:
        command = [sys.executable, "-c", _GROWING, str(tmp_path / "gate")]
        driver = subprocess.Popen(command, env=cluster.environment, cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True)
        wait_until(lambda: driver.poll() is not None or (tmp_path / "up").exists())
        with cluster.joined():
            out, err = driver.communicate()
    assert out == "4 2\n", err
    assert "the cluster has grown: actors: 1 more, 2 in all" in err


@pytest.fixture(autouse=True)
def no_actor_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0)


def test_actors_that_find_no_room_say_what_they_wait_for_and_end_where_it_is_for_ever(
    local_ray: None, caplog: pytest.LogCaptureFixture
) -> None:
    too_large = PoolSize(2, cpus=64, gpus=0, threads=1, in_flight=1, wait_s=0.5)
    with pytest.raises(NoRoomForActors), ActorPool[Any, Any](Named, too_large, say_after_s=0.0) as pool:
        list(pool.run([1], tick_s=0.1))
    assert "waiting for room: 2 of 2 actors; each needs 64 CPUs on one node; the cluster has node " in caplog.text
    assert "with 2 CPUs (2 free); no node is that large: add one with 64 CPUs, or set" in caplog.text
    assert "cluster.cpus_per_actor to 2 or less; the run ends in 0 s (cluster.wait_for_node_s)" in caplog.text
    caplog.clear()
    # One of two finds room: the run goes on with it, and says why the other does not.
    size = PoolSize(2, cpus=1.5, gpus=0, threads=1, in_flight=1)
    with ActorPool[int, int](Named, size, say_after_s=0.0) as pool:
        for outcome in pool.run(range(20_000), tick_s=0.01):
            if outcome is not None and "large enough are in use" in caplog.text:
                pool.drop_waiting()
    assert "nodes that are large enough are in use: actors start when there is room, or set" in caplog.text
