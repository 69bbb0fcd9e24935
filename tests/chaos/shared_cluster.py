"""What trials share: a Ray cluster with a node to lose, an S3 server, drivers that have imported everything."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.processes import descendants, end_tree, kill
from tests.support.drivers import ROOT, wait_until
from tests.support.s3 import S3Server, free_ports

_SPARE_DRIVERS = 2
_STORE_BYTES = str(100 << 20)
# A node that is gone is noticed in seconds instead of a quarter of a minute.
_WATCHFUL = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}


class Driver:
    """A process that runs jobs one after the other until it is killed."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start the process; it begins to import."""
        self.is_spent = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.driver"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal that it may get late; it is lent to no other trial."""
        self.is_spent = True
        kill(self.pid, number)

    def wait_until_ready(self) -> None:
        """Wait until everything is imported."""
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError("a driver did not come up")

    def run(self, argv: list[str], log: Path) -> int:
        """Run a job to its end; -9 if the driver is killed meanwhile."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"argv": argv, "log": str(log)}) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return int(answer) if answer else self._process.wait()

    def is_alive(self) -> bool:
        """Return whether it can run another job."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it and all that it has started."""
        end_tree(self.pid)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@dataclass
class SharedCluster:
    """The cluster, server and drivers that all trials share.

    Attributes:
        folder: For corpora, tables and logs on disk.
        server: The S3 server.
        environment: Of every process.
        client_port: Port of Ray's client server, which nobody uses.
    """

    folder: Path
    server: S3Server
    environment: dict[str, str]
    client_port: int
    _head: subprocess.Popen[bytes] | None = None
    _node: subprocess.Popen[bytes] | None = None
    _idle: queue.Queue[Driver] = field(default_factory=queue.Queue)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _starting: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "start-driver"))

    @property
    def address(self) -> str:
        """Address of the cluster."""
        return self.environment["RAY_ADDRESS"]

    @property
    def head_pid(self) -> int:
        """Id of the process that started the head of the cluster."""
        assert self._head is not None
        return self._head.pid

    @contextlib.contextmanager
    def driver(self) -> Iterator[Driver]:
        """Lend a driver that uses the shared cluster; one that is alive and had no signal is lent again."""
        driver = self._idle.get()
        if self._idle.empty():
            self._starting.submit(self._start_driver)
        try:
            yield driver
        finally:
            if driver.is_alive() and not driver.is_spent:
                self._idle.put(driver)
            else:
                driver.end()

    def second_node(self) -> int:
        """Return the process id of the second node; start a node if there is none."""
        with self._lock:
            if self._node is None or self._node.poll() is not None:
                self._node = self._start_ray(["--address", self.address], "node")
                wait_until(lambda: self._says("node", "Ray runtime started"))
            return self._node.pid

    def start_cluster(self) -> None:
        """Start the head of the cluster, and spare drivers beside it."""
        for _ in range(_SPARE_DRIVERS):
            self._starting.submit(self._start_driver)
        port = self.address.rpartition(":")[2]
        options = [
            "--head",
            "--node-ip-address",
            "127.0.0.1",
            "--port",
            port,
            "--temp-dir",
            str(self.folder / "ray"),
            "--include-dashboard",
            "false",
        ]
        self._head = self._start_ray([*options, "--ray-client-server-port", str(self.client_port)], "head")
        wait_until(lambda: self._says("head", "Ray runtime started"))

    def end(self) -> None:
        """End all that was started here."""
        self._starting.shutdown(wait=True)
        while not self._idle.empty():
            self._idle.get().end()
        for ray in (self._node, self._head):
            if ray is not None:
                rest = descendants(ray.pid)
                ray.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    ray.wait(15)
                end_tree(ray.pid)
                for pid in rest:
                    kill(pid)
                ray.wait()

    def _start_driver(self) -> None:
        driver = Driver(self.environment)
        driver.wait_until_ready()
        self._idle.put(driver)

    def _start_ray(self, options: list[str], name: str) -> subprocess.Popen[bytes]:
        ray = Path(sys.executable).with_name("ray")
        fixed = ["--block", "--num-cpus", "4", "--object-store-memory", _STORE_BYTES, "--disable-usage-stats"]
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, str(ray), "start", *options, *fixed, "--include-log-monitor", "false"],
                env=self.environment | _WATCHFUL,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _says(self, name: str, words: str) -> bool:
        return words in (self.folder / f"{name}.log").read_text(errors="replace")


@contextlib.contextmanager
def open_shared_cluster(server: S3Server) -> Iterator[SharedCluster]:
    """Start a cluster and drivers beside a running S3 server, and end them afterwards."""
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        # The token keeps others off the cluster, which may listen on more than the loopback address.
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        port, client_port = free_ports(2)
        address = {"RAY_ADDRESS": f"127.0.0.1:{port}", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **server.environment(), **token, **address}
        shared = SharedCluster(Path(name), server, environment, client_port)
        try:
            shared.start_cluster()
            yield shared
        finally:
            shared.end()


def put(server: S3Server, bucket: str, files: dict[str, bytes]) -> None:
    """Write objects into a bucket; create it if it does not exist."""
    client: Any = server.client()
    with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=bucket)
    for key, data in files.items():
        client.put_object(Bucket=bucket, Key=key, Body=data)
