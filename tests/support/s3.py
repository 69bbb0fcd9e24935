"""Real S3 servers for tests on the loopback address: SeaweedFS, and moto for what that does not do."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from schemas.config import StorageConfig

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
_READY_WITHIN_S = 150
_STARTS = 3


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint: Its URL.
        access_key: Key with all rights. The product finds it in the environment.
        secret_key: Its secret.
    """

    endpoint: str
    access_key: str = "lake"
    secret_key: str = "lake-secret"

    @property
    def storage(self) -> StorageConfig:
        """Return the config block for this server."""
        return StorageConfig(endpoint=self.endpoint, region=REGION)

    def client(self) -> S3Client:
        """Return a new boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def environment(self) -> dict[str, str]:
        """Return the environment variables with its credentials."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


def put(server: S3Server, bucket: str, key: str, data: bytes) -> str:
    """Write an object; return its address."""
    server.client().put_object(Bucket=bucket, Key=key, Body=data)
    return f"s3://{bucket}/{key}"


def free_ports(count: int) -> list[int]:
    """Return different TCP ports of the loopback address that nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server that keeps its data in `folder`, and end it."""
    for attempt in range(_STARTS):
        ports = free_ports(8)
        server = S3Server(f"http://127.0.0.1:{ports[0]}")
        process = _start(server, folder, ports)
        try:
            _wait_until_ready(server, process, folder / "weed.log")
        except _NotStarted as error:
            _end(process)
            if attempt == _STARTS - 1:
                raise RuntimeError(f"no S3 server: {error}") from error
            continue  # another process may have taken one of the ports
        break
    try:
        yield server
    finally:
        _end(process)


@contextmanager
def running_moto() -> Iterator[StorageConfig]:
    """Run moto, which refuses single objects as a bucket's policy says, and keeps versions; it takes any key."""
    # In a process of its own: some calls of Lance hold the interpreter's lock while they wait for an answer.
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _READY_WITHIN_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("moto does not start")
            time.sleep(0.1)
        yield StorageConfig(endpoint=f"http://127.0.0.1:{port}", region=REGION)
    finally:
        _end(process)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class _NotStarted(Exception):
    pass


def _start(server: S3Server, folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    identity = {
        "name": "lake",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    with (folder / "weed.log").open("wb") as log:
        return subprocess.Popen(_command(folder, config, ports), stdout=log, stderr=log, cwd=folder)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # it takes ten seconds to go by itself, and its data is thrown away
    process.wait()


def _command(folder: Path, config: Path, ports: list[int]) -> list[str]:
    weed = Path(sys.executable).with_name("weed")
    s3_port, s3_grpc_port, *others = ports
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer") for kind in ("", ".grpc")]
    return [
        str(weed if weed.exists() else shutil.which("weed")),
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder}",
        *(f"-{name}={port}" for name, port in zip(names, others, strict=True)),
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=200",
        "-s3",
        f"-s3.port={s3_port}",
        f"-s3.port.grpc={s3_grpc_port}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={config}",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
    ]


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an object can be written and read: the server answers before its volumes are there."""
    client = server.client()
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            client.get_object(Bucket="ready", Key="ready")["Body"].read()
            return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise _NotStarted(f"{error}\n{log.read_text(errors='replace')[-3000:]}") from error
            time.sleep(0.2)
