"""A cluster of a test's own, which the test may kill."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
    """

    environment: dict[str, str]
    pid: int

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
        ray = [sys.executable, str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        ray += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--ray-client-server-port", str(client)]
        ray += ["--temp-dir", f"{folder}/ray", "--include-dashboard", "false", "--num-cpus", "2"]
        ray += ["--object-store-memory", str(100 << 20), "--disable-usage-stats", "--include-log-monitor", "false"]
        written = Path(folder, "head.log")
        with written.open("wb") as log:
            head = subprocess.Popen(ray, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        cluster = OwnCluster(environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}, head.pid)
        try:
            wait_until(lambda: head.poll() is not None or "Ray runtime started" in written.read_text())
            assert head.poll() is None, written.read_text()
            yield cluster
        finally:
            cluster.kill()
            head.wait()
