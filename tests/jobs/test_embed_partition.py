"""`mlake embed` on three machines with networks of their own, of which one is cut off in the middle of the run."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.processes import end_tree
from tests.support.corpus import contents, differing, settings, truth, write_config, write_corpus
from tests.support.drivers import ROOT, wait_until
from tests.support.namespaces import Machines, are_allowed, machines


@contextmanager
def running(command: list[str], environment: dict[str, str], written: Path) -> Iterator[subprocess.Popen[bytes]]:
    with written.open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        end_tree(process.pid)
        process.wait()


def ray_start(net: Machines, number: int, *options: str) -> list[str]:
    ray = [sys.executable, str(Path(sys.executable).with_name("ray")), "start", "--block", *options]
    node = ["--node-ip-address", net.addresses[number], "--object-store-memory", str(100 << 20)]
    return net.on(number, [*ray, *node])


def has_started(log: Path) -> bool:
    return "Ray runtime started" in log.read_text()


@pytest.mark.slow
def test_a_node_that_is_cut_off_is_named_and_its_work_is_done_by_the_other(tmp_path: Path) -> None:
    if not are_allowed():
        pytest.skip("this process may not make network namespaces")
    corpus = write_corpus(tmp_path / "src", 1500, 4)
    pool = {"actors": 2, "cpus_per_actor": 1, "decode_threads": 1}
    raw = settings(tmp_path / "src", tmp_path / "t.lance", cluster=pool)
    config = write_config(tmp_path / "c.toml", raw)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with machines(3) as net, tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        address = f"{net.addresses[0]}:6379"
        environment = {**os.environ, **token, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address}
        head = [
            "--head",
            "--port",
            "6379",
            "--num-cpus",
            "0",
            "--include-dashboard",
            "false",
            "--temp-dir",
            f"{folder}/ray",
        ]
        nodes = [ray_start(net, 0, *head, "--disable-usage-stats")]
        nodes += [ray_start(net, number, "--address", address, "--num-cpus", "1") for number in (1, 2)]
        embed = net.on(0, [sys.executable, "-m", "jobs", "embed", str(config), "--log", "json"])
        logs = [tmp_path / f"node{number}.log" for number in range(3)]
        with ExitStack() as stack:
            for node, log in zip(nodes, logs, strict=True):  # one by one, since they share Ray's folder
                stack.enter_context(running(node, environment, log))
                wait_until(partial(has_started, log))
            driver = stack.enter_context(running(embed, environment, tmp_path / "run.log"))
            said = list[dict[str, object]]()

            def is_at_work() -> bool:
                lines = (tmp_path / "run.log").read_text().splitlines()
                said[:] = [json.loads(line) for line in lines if line.startswith("{")]
                return driver.poll() is not None or any(
                    line.get("landed") and not line["pending_actors"] for line in said
                )

            wait_until(is_at_work)
            assert driver.poll() is None, (tmp_path / "run.log").read_text()
            net.cut_off(2)
            assert driver.wait(500) == 0, (tmp_path / "run.log").read_text()
    printed = (tmp_path / "run.log").read_text()
    # Whichever comes first: Ray declares the node dead, or no other work is left and its leases are late.
    node = re.escape(f"node {net.addresses[2]}")
    assert re.search(f"{node} is lost; what it worked on is done by others|on {node}, much longer than", printed)
    assert differing(contents(tmp_path / "t.lance"), truth(corpus)) == []
