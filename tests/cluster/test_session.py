"""A session connects to Ray, sizes pools by what is free, and lets workers import what the driver runs."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
import ray

from cluster.session import (
    PoolSize,
    Stop,
    check_workers,
    connect,
    enter_folder,
    has_gpu,
    largest_share,
    plan_pool,
    saying_that_it_waits,
)
from schemas.config import ClusterConfig
from schemas.errors import ConfigError, LakeError, RunError
from tests.support.corpus import contents, differing, settings, truth, write_config, write_corpus
from tests.support.drivers import ROOT, shadowing_packages


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


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cpus_per_actor": 64}, r"cluster\.cpus_per_actor=64, and this machine has 2 CPUs; lower it"),
        ({"gpus_per_actor": 1}, r"cluster\.gpus_per_actor=1, and this machine has 0 GPUs"),
        ({"actors": 4000}, r"cluster\.actors=4000, and this machine has 2 CPUs, for up to 32 actors"),
        ({"feeders": 2, "cpus_per_actor": 0.5}, r"cluster\.feeders=2 take a CPU each beside 1 actors"),
    ],
)
def test_a_pool_that_this_machine_can_never_hold_is_refused(
    settings: dict[str, float], said: str, local_ray: None
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_pool(ClusterConfig.model_validate(settings))
    with pytest.raises(ConfigError, match=r"run\.workers=33, and this machine has 2 CPUs, for up to 32 workers"):
        check_workers(33)


@pytest.mark.parametrize("address", ["nonsense", "a:b", "1.2.3.4:0", "1.2.3.4:99999", "http://x:1/", "[/]:1"])
def test_what_is_no_address_of_a_cluster_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(LakeError, match=rf"RAY_ADDRESS={re.escape(address)}"), connect():
        raise AssertionError("connected")


def test_a_cluster_that_does_not_answer_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for scheme in "", "ray://":
            monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{unused.getsockname()[1]}")
            with pytest.raises(RunError, match=r"nothing answers at RAY_ADDRESS=.*: Connection refused"), connect():
                raise AssertionError("connected")


@pytest.mark.parametrize(
    ("raised", "becomes", "said"),
    [
        (Exception("The current node\ntimed out during startup"), RunError, "on this machine: The current node timed"),
        (RuntimeError("no port"), RunError, "Ray does not start on this machine: no port"),
        (SystemExit(15), KeyboardInterrupt, "^$"),
    ],
)
def test_what_ray_raises_while_it_starts_is_one_sentence(
    raised: BaseException, becomes: type[BaseException], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**settings: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(becomes, match=said), connect():
        raise AssertionError("connected")


def test_a_long_wait_is_said_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    with saying_that_it_waits("a bus", after_s=0.01, every_s=0.01):
        while len(caplog.messages) < 2:
            pass
    assert caplog.messages[0].startswith("waiting for a bus (")


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


def listening(process: psutil.Process) -> set[str]:
    """Return the addresses on which a process and its descendants listen."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            found |= {c.laddr.ip for c in one.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return found


def test_a_local_run_listens_on_loopback_only_and_the_users_folders_do_it_no_harm(tmp_path: Path) -> None:
    shadowing_packages(tmp_path)
    corpus = write_corpus(tmp_path / "src", shards=2, rows=5)
    config = write_config(tmp_path / "config.toml", settings("src", "lake/t.lance"))
    # -P: the program itself is found beside its packages, as the console command `mlake` is.
    command = [sys.executable, "-P", "-m", "jobs", "embed", config.name]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    said, addresses = tmp_path / "said", set[str]()
    with said.open("wb") as out:
        run = psutil.Popen(command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=out, stderr=out)
        while run.poll() is None:
            with suppress(psutil.Error):
                addresses |= listening(run)
            with suppress(psutil.TimeoutExpired):
                run.wait(timeout=1)
    assert run.returncode == 0, said.read_text()
    assert differing(contents(tmp_path / "lake" / "t.lance"), truth(corpus)) == []
    assert addresses
    assert all(ip_address(address.removeprefix("::ffff:")).is_loopback for address in addresses), addresses
