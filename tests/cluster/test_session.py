"""A session connects to Ray, sizes pools by what is free, and lets workers import what the driver runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.session import PoolSize, Stop, enter_folder, has_gpu, plan_pool
from schemas.config import ClusterConfig
from tests.support.corpus import contents, differing, settings, truth, write_config, write_corpus
from tests.support.drivers import ROOT, shadowing_packages


def test_a_pool_takes_the_cpus_that_are_free(local_ray: None) -> None:
    assert not has_gpu()
    size = plan_pool(ClusterConfig())
    assert (size.actors, size.gpus, size.threads, size.feeders) == (1, 0, 2, 0)
    assert 1.9 < size.cpus < 2
    asked = ClusterConfig(actors=3, cpus_per_actor=0.25, decode_threads=4, leases_per_actor=1, feeders=2)
    assert plan_pool(asked) == PoolSize(3, cpus=0.25, gpus=0, threads=4, in_flight=1, feeders=2)


def test_the_first_signal_asks_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Stop() as stop:
        assert not stop.is_asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_folder_that_is_not_there_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    enter_folder(str(tmp_path / "none"))
    assert Path.cwd() == tmp_path


def test_packages_of_the_same_names_in_the_users_folder_do_no_harm(tmp_path: Path) -> None:
    shadowing_packages(tmp_path)
    corpus = write_corpus(tmp_path / "src", shards=2, rows=5)
    config = write_config(tmp_path / "config.toml", settings("src", "lake/t.lance"))
    # -P: the program itself is found beside its packages, as the console command `mlake` is.
    command = [sys.executable, "-P", "-m", "jobs", "embed", config.name]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert differing(contents(tmp_path / "lake" / "t.lance"), truth(corpus)) == []
