"""Several `mlake embed` on one cluster share it: each works with what it gets, says what it waits for, ends exact."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clusters import own_cluster
from tests.support.corpus import contents, differing, settings, truth, write_config, write_corpus
from tests.support.drivers import Driver


@pytest.mark.slow
def test_jobs_whose_actors_do_not_all_fit_share_a_cluster(tmp_path: Path) -> None:
    # On three machines of two CPUs each: five actors and a feeder fit, and fourteen are asked for.
    pools = {
        "whole": {"actors": "auto"},
        "many": {"actors": 6, "cpus_per_actor": 1, "decode_threads": 1},
        "fed": {"actors": 3, "cpus_per_actor": 1, "decode_threads": 1, "feeders": 2},
    }
    corpora = {name: write_corpus(tmp_path / name, 1000, 4) for name in pools}
    with own_cluster() as cluster, cluster.joined(), cluster.joined(), ExitStack() as started:
        drivers = {}
        for name, pool in pools.items():
            raw = settings(tmp_path / name, tmp_path / f"{name}.lance", cluster=pool)
            config = write_config(tmp_path / f"{name}.toml", raw)
            driver = Driver(["embed", config, "--log", "json"], tmp_path / "log" / name, cluster.environment)
            drivers[name] = started.enter_context(driver)
        ended = {name: driver.end() for name, driver in drivers.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(pools, 0), ended
    for name, corpus in corpora.items():
        assert differing(contents(tmp_path / f"{name}.lance"), truth(corpus)) == []
    assert any("waiting for room: " in end.out for end in ended.values()), ended
