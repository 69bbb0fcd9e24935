"""A cluster of a test's own, which the test may kill."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.processes import end_tree
from tests.support.drivers import ROOT, wait_until
from tests.support.s3 import free_ports


@dataclass(frozen=True)
class OwnCluster:
    """A head with two CPUs.

    Attributes:
        environment: For drivers that use it.
        pid: Of `ray start`.
        folder: For the logs of nodes that join.
    """

    environment: dict[str, str]
    pid: int
    folder: Path

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Start another node of two CPUs, and kill it afterwards."""
        address = self.environment["RAY_ADDRESS"]
        options = ["--address", address, "--node-ip-address", "127.0.0.1", "--num-cpus", "2"]
        node = _ray_start(options, self.environment, self.folder / f"node-{secrets.token_hex(4)}.log")
        try:
            yield
        finally:
            end_tree(node.pid)
            node.wait()

    def kill(self) -> None:
        """Kill all processes of the head."""
        end_tree(self.pid)


@contextlib.contextmanager
def own_cluster(**settings: str) -> Iterator[OwnCluster]:
    """Start a head with a token, on the loopback address, and kill it afterwards; `settings` are Ray's variables."""
    port, client = free_ports(2)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **token, **settings}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        options = ["--head", "--node-ip-address", "127.0.0.1", "--port", str(port)]
        options += ["--ray-client-server-port", str(client), "--temp-dir", f"{folder}/ray", "--num-cpus", "2"]
        options += ["--include-dashboard", "false", "--disable-usage-stats", "--include-log-monitor", "false"]
        head = _ray_start(options, environment, Path(folder, "head.log"))
        cluster = OwnCluster(environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}, head.pid, Path(folder))
        try:
            yield cluster
        finally:
            cluster.kill()
            head.wait()


def _ray_start(options: Sequence[str], environment: Mapping[str, str], written: Path) -> subprocess.Popen[bytes]:
    """Start a node and wait until it has started."""
    ray = [sys.executable, str(Path(sys.executable).with_name("ray")), "start", "--block", *options]
    ray += ["--object-store-memory", str(100 << 20)]
    with written.open("wb") as log:
        node = subprocess.Popen(ray, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    wait_until(lambda: node.poll() is not None or "Ray runtime started" in written.read_text())
    if node.poll() is not None:
        raise RuntimeError(written.read_text())
    return node
