"""A few of the trials of `make chaos`, one of each fault; the rest of `tests.chaos` without processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cluster.actors import ActorPool
from cluster.placement import PoolSize
from tests.chaos.__main__ import plan, summary
from tests.chaos.processes import actors_below
from tests.chaos.shared_cluster import SharedCluster, open_shared_cluster
from tests.chaos.shares import FAULTS, SHARES
from tests.chaos.trial import TrialResult, run_trial
from tests.support.actor_workers import Named
from tests.support.s3 import S3Server


@pytest.fixture(scope="module")
def shared(s3_server: S3Server) -> Iterator[SharedCluster]:
    with open_shared_cluster(s3_server) as shared:
        yield shared


@pytest.mark.parametrize(
    "fault",
    ["kill_driver", *(pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS if fault != "kill_driver")],
)
def test_the_table_is_exact_after_every_fault(shared: SharedCluster, fault: str) -> None:
    result = run_trial(shared, seed=list(FAULTS).index(fault), fault=fault)
    assert not result.wrong, result


def test_the_processes_of_actors_are_found(local_ray: None) -> None:
    with ActorPool[int, int](Named, PoolSize(1, cpus=0.1, gpus=0, threads=1, in_flight=1)) as actors:
        (process,) = (outcome.result for outcome in actors.run([1]) if outcome is not None)
        assert process in actors_below(os.getpid())


def test_every_fault_has_its_share_and_the_seed_decides() -> None:
    assert FAULTS.keys() == SHARES.keys()
    planned = plan(200, seed=3)
    assert len(planned) == 200
    assert len({seed for seed, _ in planned}) == 200
    assert {fault for _, fault in planned} == FAULTS.keys()
    assert plan(200, seed=3) == planned != plan(200, seed=4)


def test_the_summary_names_what_was_wrong() -> None:
    good = TrialResult(seed=1, fault="kill_driver", codes=(-9, 0), rows=10, wrong="", seconds=1.0)
    bad = TrialResult(seed=2, fault="kill_node", codes=(0, 0), rows=10, wrong="3 rows differ", seconds=1.0)
    printed = summary([good, bad], 2.0)
    assert "2 trials in 2 s, 1 wrong" in printed
    assert "seed      2" in printed.splitlines()[-1]
    assert "3 rows differ" in printed.splitlines()[-1]
