"""A pool goes on lighter where its actors run out of memory, and blames no item for a machine that is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import pytest
import ray

from cluster.actors import ActorPool
from cluster.placement import PoolSize
from tests.support.actor_workers import Crowding, Heavy
from tests.support.clusters import own_cluster
from tests.support.drivers import ROOT, wait_until


def pool(make: Callable[[], Any], actors: int = 1) -> ActorPool[int, int]:
    size = PoolSize(actors, cpus=0.1, gpus=0, threads=1, in_flight=2)
    return ActorPool[int, int](make, size, most_halvings=6)


def test_an_actor_that_is_killed_again_and_again_gets_smaller_batches(
    local_ray: None, caplog: pytest.LogCaptureFixture
) -> None:
    with pool(Heavy) as actors:
        outcomes = list(filter(None, actors.run(range(40))))
    assert {outcome.item: outcome.result for outcome in outcomes} == dict.fromkeys(range(40), 16)
    assert caplog.text.count("an actor on node ") < 5  # not one for each item
    assert "a lease killed its actor until it was done with batches of 1/4 of their size: so is all work" in caplog.text


def test_the_smallest_batches_are_followed_by_fewer_actors(local_ray: None, caplog: pytest.LogCaptureFixture) -> None:
    with pool(Crowding, actors=3) as actors:
        wait_until(lambda: len(list(filter(None, actors.run([1])))) == 1 and not actors.queue().pending_actors)
        done = {outcome.item: outcome for outcome in filter(None, actors.run([0, 1, 2]))}
        assert (done[0].result, actors.actors) == (1, 1)
        assert {outcome.result for outcome in filter(None, actors.run(range(1, 9)))} == {1}
    assert "also with the smallest batches; it is tried again with 1 actor fewer on its machine" in caplog.text
    assert "until it was done with the smallest batches and 2 actors fewer: so is all work" in caplog.text


def test_an_item_that_always_kills_its_actor_costs_no_other_an_actor(local_ray: None) -> None:
    with pool(Crowding, actors=2) as actors:
        wait_until(lambda: len(list(filter(None, actors.run([1])))) == 1 and not actors.queue().pending_actors)
        done = {outcome.item: outcome for outcome in filter(None, actors.run([-1, 1, 2, 3]))}
        assert done[-1].died
        assert [done[item].result for item in (1, 2, 3)] == [64, 64, 64]
        wait_until(lambda: len(list(filter(None, actors.run([4])))) == 1 and not actors.queue().pending_actors)
        assert actors.actors == 2


_HOARDING = """
from cluster.actors import ActorPool
from cluster.placement import PoolSize
from cluster.session import connect
from schemas.work import RetryPolicy
from tests.support.actor_workers import Hoarding

with connect(), ActorPool(Hoarding, PoolSize(1, 0.1, 0, 1, 2), most_halvings=6) as pool:
    print([outcome.result for outcome in pool.run(range(8), RetryPolicy(max_tries=1)) if outcome])
"""


@pytest.mark.slow
def test_an_actor_that_ray_ends_for_want_of_memory_is_no_failure() -> None:
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + (3 << 30)) / memory.total
    with own_cluster(RAY_memory_usage_threshold=f"{threshold:.3f}", RAY_memory_monitor_refresh_ms="100") as cluster:
        ended = subprocess.run(
            [sys.executable, "-c", _HOARDING], env=cluster.environment, cwd=ROOT, capture_output=True, text=True
        )
    assert ended.stdout == f"{[16] * 8}\n", ended.stderr
    assert " died for want of memory (" in ended.stderr
    assert "GB limit" in ended.stderr
    assert "all work goes on with batches of 1/4 of their size; set encoder.batch" in ended.stderr


_PREEMPTED = """
import sys
from functools import partial
from pathlib import Path
from cluster.actors import ActorPool
from cluster.placement import PoolSize
from cluster.session import connect
from schemas.work import RetryPolicy
from tests.support.actor_workers import Gated

size = PoolSize(2, 1.5, 0, 1, 1)
with connect(), ActorPool(partial(Gated, Path(sys.argv[1])), size) as pool:
    for outcome in pool.run([1000, 1001], RetryPolicy(max_tries=1)):
        if outcome is not None:
            print(outcome.item, outcome.result)
        elif not pool.queue().pending_actors:
            Path(sys.argv[1]).with_name("up").touch()
"""


@pytest.mark.slow
def test_a_lost_machine_is_no_failure_of_what_it_worked_on(tmp_path: Path) -> None:
    with own_cluster(RAY_health_check_period_ms="500", RAY_health_check_failure_threshold="4") as cluster:
        command = [sys.executable, "-c", _PREEMPTED, str(tmp_path / "gate")]
        with cluster.joined():
            driver = subprocess.Popen(command, env=cluster.environment, cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True)
            wait_until(lambda: driver.poll() is not None or (tmp_path / "up").exists())
        (tmp_path / "gate").touch()
        out, err = driver.communicate()
    assert sorted(line for line in out.splitlines() if line.startswith("100")) == ["1000 1000000", "1001 1002001"], err
    assert "is lost; what it worked on is done by others" in err


@pytest.fixture(autouse=True)
def no_actor_is_left(request: pytest.FixtureRequest) -> None:
    if "local_ray" in request.fixturenames:
        wait_until(lambda: ray.available_resources().get("CPU") == 2.0)
