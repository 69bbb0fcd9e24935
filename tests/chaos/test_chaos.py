"""A handful of the trials of `make chaos`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.__main__ import plan, summary
from tests.chaos.faults import FAULTS, SHARES
from tests.chaos.stage import Stage, open_stage
from tests.chaos.trial import Verdict, run_trial


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with open_stage() as stage, pytest.MonkeyPatch.context() as patch:
        for name, value in stage.server.environment().items():
            patch.setenv(name, value)
        yield stage


@pytest.mark.parametrize("fault", ["kill_driver", "kill_actors", "two_drivers", "bad_network"])
def test_whatever_goes_wrong_the_table_is_exact_in_the_end(stage: Stage, fault: str) -> None:
    verdict = run_trial(stage, seed=list(FAULTS).index(fault), fault=fault)
    assert not verdict.wrong, verdict


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["kill_node", "stop_driver", "kill_local_cluster"])
def test_so_it_is_after_the_rarer_faults(stage: Stage, fault: str) -> None:
    verdict = run_trial(stage, seed=list(FAULTS).index(fault), fault=fault)
    assert not verdict.wrong, verdict


def test_every_fault_has_its_share_and_the_seed_decides() -> None:
    assert FAULTS.keys() == SHARES.keys()
    planned = plan(200, seed=3)
    assert len(planned) == 200
    assert len({seed for seed, _ in planned}) == 200
    assert {fault for _, fault in planned} == FAULTS.keys()
    assert plan(200, seed=3) == planned != plan(200, seed=4)


def test_the_summary_names_what_was_wrong() -> None:
    good = Verdict(seed=1, fault="kill_driver", codes=(-9, 0), rows=10, wrong="", seconds=1.0)
    bad = Verdict(seed=2, fault="kill_node", codes=(0, 0), rows=10, wrong="3 rows differ", seconds=1.0)
    said = summary([good, bad], 2.0)
    assert "2 trials in 2 s, 1 wrong" in said
    assert "seed      2" in said.splitlines()[-1]
    assert "3 rows differ" in said.splitlines()[-1]
