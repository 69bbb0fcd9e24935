"""Pools are sized by what is free, and refused where they can never fit."""

from __future__ import annotations

import pytest
import ray

from cluster.placement import PoolSize, check_workers, explain_no_room, has_gpu, largest_share, plan_pool
from schemas.config import ClusterConfig
from schemas.errors import ConfigError
from tests.support.drivers import wait_until


@pytest.mark.parametrize(
    ("free", "actors", "share"),
    [
        ([4, 4, 4], 3, 4),
        ([4, 4, 4], 1, 4),  # not all twelve: one actor lives on one machine
        ([8, 2, 2], 3, 2.6666),  # three on the large machine
        ([8, 2, 2], 6, 2),
        ([1, 1], 8, 0.25),
        ([0, 3], 2, 1.5),
    ],
)
def test_actors_get_what_fits_on_one_machine_each(free: list[float], actors: int, share: float) -> None:
    found = largest_share(free, actors)
    assert found == pytest.approx(share - 0.01, abs=1e-3)
    assert sum(int(cpus / found) for cpus in free) >= actors


def test_a_pool_takes_the_cpus_that_are_free(local_ray: None) -> None:
    assert not has_gpu()
    size = plan_pool(ClusterConfig())
    assert (size.actors, size.gpus, size.threads, size.feeders) == (1, 0, 2, 0)
    assert 1.9 < size.cpus < 2
    asked = ClusterConfig(actors=3, cpus_per_actor=0.25, decode_threads=4, leases_per_actor=1, feeders=1)
    assert plan_pool(asked) == PoolSize(3, cpus=0.25, gpus=0, threads=4, in_flight=1, feeders=1)


def test_a_job_that_finds_a_sliver_waits_for_a_machine(local_ray: None) -> None:
    @ray.remote
    class Holder:
        def ready(self) -> bool:
            return True

    for held, share in ((1.99, 1.99), (1.0, 0.99)):
        holder = Holder.options(num_cpus=held).remote()  # type: ignore[attr-defined]
        assert ray.get(holder.ready.remote())
        wait_until(lambda: ray.available_resources().get("CPU", 0.0) < 2.0)
        assert plan_pool(ClusterConfig()).cpus == pytest.approx(share)
        ray.kill(holder)
        wait_until(lambda: ray.available_resources().get("CPU") == 2.0)


def test_an_actor_that_has_its_room_is_not_said_to_wait(local_ray: None) -> None:
    @ray.remote(num_cpus=1.5)
    class Holder:
        def ready(self) -> bool:
            return True

    size = PoolSize(2, cpus=1.5, gpus=0, threads=1, in_flight=1)
    holder = Holder.remote()
    assert ray.get(holder.ready.remote())
    assert explain_no_room(size, unplaced=1).is_over
    second = Holder.remote()
    wait_until(lambda: not explain_no_room(size, unplaced=2).is_over)
    found = explain_no_room(size, unplaced=2)
    assert "waiting for room: 1 of 2 actors; each needs 1.5 CPUs on one node" in found.text
    assert (found.is_for_ever, found.is_over) == (False, False)
    ray.kill(holder)
    assert ray.get(second.ready.remote())
    ray.kill(second)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cpus_per_actor": 64}, r"cluster\.cpus_per_actor=64, and this machine has 2 CPUs; lower it"),
        ({"gpus_per_actor": 1}, r"cluster\.gpus_per_actor=1, and this machine has 0 GPUs"),
        ({"actors": 4000}, r"cluster\.actors=4000, and this machine has 2 CPUs, for up to 32 actors"),
        ({"feeders": 2, "cpus_per_actor": 0.5}, r"cluster\.feeders=2 take a CPU each beside 1 actor "),
    ],
)
def test_a_pool_that_this_machine_can_never_hold_is_refused(
    settings: dict[str, float], said: str, local_ray: None
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_pool(ClusterConfig.model_validate(settings))
    with pytest.raises(ConfigError, match=r"run\.workers=33, and this machine has 2 CPUs, for up to 32 workers"):
        check_workers(33)
