"""`mlake embed` where things are far away: submitted to a cluster by `ray job submit`, shards and table on S3."""

from __future__ import annotations

import gzip
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from jobs.__main__ import main
from pipelines.storage.s3 import lance_options
from pipelines.tables.companions import read_companion
from pipelines.tables.table import VectorTable
from tests.support.corpus import (
    Corpus,
    contents,
    differing,
    lines,
    settings,
    texts,
    truth,
    write_config,
    write_corpus,
)
from tests.support.drivers import ROOT, shadowing_packages, wait_until
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.printed import Printed
from tests.support.s3 import S3Server, free_ports
from tests.support.without_ray import in_process

# --- on a cluster -----------------------------------------------------------------------------------------------------


@pytest.fixture
def bare_cluster() -> Iterator[dict[str, str]]:
    """A cluster by `ray start --head --block` in an environment with nothing in it, and that environment."""
    with tempfile.TemporaryDirectory(prefix="ray-") as name:  # sockets must not have the long names of tmp_path
        yield from run_cluster(Path(name))


def run_cluster(folder: Path) -> Iterator[dict[str, str]]:
    bare = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)}
    bare |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    port, dashboard, agent, client = free_ports(4)
    options = ["--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    options += ["--dashboard-agent-listen-port", str(agent)]  # the default is taken by any other cluster here
    options += ["--ray-client-server-port", str(client), "--temp-dir", str(folder / "ray"), "--num-cpus", "2"]
    with (folder / "head.log").open("wb") as log:
        command = ["ray", "start", "--head", "--block", "--disable-usage-stats", *options]
        head = subprocess.Popen(command, env=bare, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: head.poll() is not None or "Ray runtime started" in (folder / "head.log").read_text())
        assert head.poll() is None, (folder / "head.log").read_text()
        yield bare | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        head.terminate()
        head.wait(300)


@pytest.mark.slow
def test_ray_job_submit_runs_the_same_command(tmp_path: Path, bare_cluster: dict[str, str]) -> None:
    corpus = write_corpus(tmp_path / "src", 3, 20)
    config = write_config(tmp_path / "config.toml", settings(tmp_path / "src", tmp_path / "t.lance"))

    def submit(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = ["ray", "job", "submit", "--working-dir", ".", "--", *arguments]
        return subprocess.run(command, env=bare_cluster, cwd=folder, capture_output=True, text=True)

    # A cluster takes jobs some time after it says that it has started: "No available agent …, please try again later".
    wait_until(lambda: submit("true").returncode == 0)
    embed = ("python", "-m", "jobs", "embed")

    first = submit(*embed, str(config))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "60 rows from 3 shards" in " ".join(first.stdout.split())
    assert differing(contents(tmp_path / "t.lance"), truth(corpus)) == []
    refused = submit(*embed, str(config), "--set", "encoder.name=wordlama")
    assert refused.returncode == 1
    assert "did you mean 'wordllama'?" in refused.stdout

    shadows = shadowing_packages(tmp_path / "user")
    write_config(shadows / "config.toml", settings(tmp_path / "src", tmp_path / "t2.lance"))
    mlake = f"import sys; sys.path.append({str(ROOT)!r}); from matryoshka_lake import main; main()"
    shadowed = submit("python", "-c", mlake, "embed", "config.toml", folder=shadows)
    assert shadowed.returncode == 0, shadowed.stdout + shadowed.stderr
    assert differing(contents(tmp_path / "t2.lance"), truth(corpus)) == []


# --- on S3 ------------------------------------------------------------------------------------------------------------


def test_a_store_that_fails_to_the_end_is_no_refusal(
    tmp_path: Path, s3_server: S3Server, bucket: str, printed: Printed
) -> None:
    with FaultProxy(s3_server.endpoint, Faults(rate=1, kinds=("error_503",))) as proxy:
        at = {"endpoint": proxy.endpoint, "region": s3_server.storage.region}
        config = settings(f"s3://{bucket}/src", str(tmp_path / "t.lance"), storage=at)
        assert main(["embed", str(write_config(tmp_path / "c.toml", config)), "--dry-run"]) == 1
        assert "S3 keeps failing" in printed()
        assert proxy.counts["error_503"] > 1


def test_shards_and_table_on_s3(
    tmp_path: Path, local_ray: None, s3_server: S3Server, bucket: str, printed: Printed
) -> None:
    corpus: Corpus = {}

    def put(name: str, rows: int, seed: int) -> None:
        uri = f"s3://{bucket}/src/{name}.jsonl"
        corpus[uri] = texts(name, rows, seed)
        s3_server.client().put_object(Bucket=bucket, Key=f"src/{name}.jsonl", Body=lines(corpus[uri]).encode())

    for name in ("a", "b", "c"):
        put(name, 20, 0)
    table, options = f"s3://{bucket}/lake/t.lance", lance_options(s3_server.storage)
    at = {"endpoint": s3_server.storage.endpoint, "region": s3_server.storage.region}
    config = write_config(tmp_path / "c.toml", settings(f"s3://{bucket}/src", table, storage=at))
    assert main(["embed", str(config)]) == 0
    assert differing(contents(table, options), truth(corpus)) == []
    put("b", 7, 1)
    put("d", 5, 0)
    printed()
    with in_process():
        assert main(["embed", str(config)]) == 0
    assert "12 rows from 2 shards" in printed()
    assert differing(contents(table, options), truth(corpus)) == []
    assert main(["embed", str(config)]) == 0
    assert "nothing to do" in printed()
    assert main(["rejects", table, "--endpoint", at["endpoint"] or "", "--region", at["region"] or ""]) == 0
    assert "0 rejects" in printed()


def test_a_new_signature_is_no_new_shard_and_no_ledger_keeps_one(
    tmp_path: Path, without_ray: None, s3_server: S3Server, bucket: str, printed: Printed
) -> None:
    client, key, table = s3_server.client(), "src/a.jsonl.gz", tmp_path / "t.lance"
    address = f"{s3_server.endpoint}/{bucket}/{key}"

    def signed(seconds: int, version: str, **options: str) -> str:
        signer = boto3.client(
            "s3",
            endpoint_url=s3_server.endpoint,
            region_name=s3_server.storage.region,
            config=Config(signature_version=version, s3={"addressing_style": "path"}),
        )
        return signer.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key, **options}, seconds)

    def embed(seconds: int, rows: int, seed: int) -> None:
        corpus = {address: texts("a", rows, seed)}
        client.put_object(Bucket=bucket, Key=key, Body=gzip.compress(lines(corpus[address]).encode(), mtime=0))
        shards = [signed(seconds, "s3v4"), signed(seconds + 1, "s3v4"), signed(seconds, "s3")]
        shards.append(signed(seconds, "s3v4", ResponseContentType="text/plain"))
        assert len({*shards}) == 4
        config = settings(tmp_path, table) | {"shards": shards}
        assert main(["embed", str(write_config(tmp_path / "c.toml", config))]) == 0, printed()
        assert differing(contents(table), truth(corpus)) == []

    embed(1_000, 20, 0)
    printed()
    embed(2_000, 20, 0)
    assert "nothing to do" in printed()
    embed(3_000, 7, 1)
    assert set(read_companion(VectorTable.open(str(table)), "shards")["uri"].to_pylist()) == {address}
