"""A session connects to Ray, and lets workers import what the driver runs."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
import ray

from cluster.session import Stop, connect, enter_folder, saying_that_it_waits
from schemas.errors import LakeError, RunError
from tests.support.corpus import contents, differing, settings, truth, write_config, write_corpus
from tests.support.drivers import ROOT, shadowing_packages


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


_ASKED_TO_STOP_WHILE_RAY_ENDS = """
import os, signal, threading, ray
from cluster.session import connect

def ask(is_over):
    while not is_over.wait(0.02):
        os.kill(os.getpid(), signal.SIGINT)

def shut_down(end=ray.shutdown):
    is_over = threading.Event()
    asking = threading.Thread(target=ask, args=[is_over])
    asking.start()
    try:
        end()
    finally:
        is_over.set()
        asking.join()

ray.shutdown = shut_down
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
try:
    with connect():
        reference = ray.put("freed after Ray has ended")
except KeyboardInterrupt:
    del reference
    os._exit(130)
"""


def test_a_signal_while_ray_ends_takes_effect_after_it() -> None:
    command = [sys.executable, "-c", _ASKED_TO_STOP_WHILE_RAY_ENDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr


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
