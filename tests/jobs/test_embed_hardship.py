"""`jobs embed` where things are far or scarce: by `ray job submit`, on S3, on a full disk, with a full object store.

What dies at random moments is in tests/chaos.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lance
import numpy as np
import pytest
import ray

from jobs.__main__ import main
from pipelines.storage.s3 import lance_options
from pipelines.tables.runs import ALIVE_FOR
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
    write_shard,
)
from tests.support.drivers import MISBEHAVING, ROOT, Driver, wait_until
from tests.support.s3 import S3Server, free_port


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


# --- on a cluster -----------------------------------------------------------------------------------------------------


@pytest.fixture
def bare_cluster() -> Iterator[dict[str, str]]:
    """A cluster by `ray start --head --block` in an environment with nothing in it, and that environment."""
    with tempfile.TemporaryDirectory(prefix="ray-") as name:  # sockets must not have the long names of tmp_path
        yield from run_cluster(Path(name))


def run_cluster(folder: Path) -> Iterator[dict[str, str]]:
    bare = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)}
    bare |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    dashboard = free_port()
    options = ["--port", str(free_port()), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    options += ["--dashboard-agent-listen-port", str(free_port())]  # the default is taken by any other cluster here
    options += ["--ray-client-server-port", str(free_port()), "--temp-dir", str(folder / "ray"), "--num-cpus", "2"]
    with (folder / "head.log").open("wb") as log:
        command = ["ray", "start", "--head", "--block", "--disable-usage-stats", *options]
        head = subprocess.Popen(command, env=bare, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: head.poll() is not None or "Ray runtime started" in (folder / "head.log").read_text())
        assert head.poll() is None, (folder / "head.log").read_text()
        yield bare | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        head.terminate()
        head.wait(60)


@pytest.mark.timeout(600)
def test_ray_job_submit_runs_the_same_command(tmp_path: Path, bare_cluster: dict[str, str]) -> None:
    corpus = write_corpus(tmp_path / "src", 3, 20)
    config = write_config(tmp_path / "config.toml", settings(tmp_path / "src", tmp_path / "t.lance"))

    def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ray", "job", "submit", "--working-dir", ".", "--", *arguments]
        return subprocess.run(command, env=bare_cluster, cwd=ROOT, capture_output=True, text=True, timeout=280)

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


# --- on S3 ------------------------------------------------------------------------------------------------------------


def test_shards_and_table_on_s3(
    tmp_path: Path, local_ray: None, s3_server: S3Server, bucket: str, capsys: pytest.CaptureFixture[str]
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
    said(capsys)
    assert main(["embed", str(config)]) == 0
    assert "12 rows from 2 shards" in said(capsys)
    assert differing(contents(table, options), truth(corpus)) == []
    assert main(["embed", str(config)]) == 0
    assert "nothing to do" in said(capsys)
    assert main(["rejects", table, "--endpoint", at["endpoint"] or "", "--region", at["region"] or ""]) == 0
    assert "0 rejects" in said(capsys)


# --- where there is no room -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_ends_the_run_with_an_error_and_it_goes_on_when_there_is_room(
    tmp_path: Path, local_ray: None, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "src", 24, 300)
    config = write_config(tmp_path / "c.toml", settings(tmp_path / "src", small_disk / "t.lance"))
    assert main(["embed", str(config)]) == 1
    words = said(capsys)
    assert "No space left on device" in words
    assert "same command" in words
    there = contents(small_disk / "t.lance")
    assert there.items() <= truth(corpus).items()
    assert len(there) < 24 * 300
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert main(["embed", str(config)]) == 0
    assert differing(contents(small_disk / "t.lance"), truth(corpus)) == []


def test_a_disk_that_is_full_from_the_start_is_an_error_too(
    tmp_path: Path, local_ray: None, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "src", 2, 10)
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(os.urandom(4 << 20))
    config = write_config(tmp_path / "c.toml", settings(tmp_path / "src", small_disk / "t.lance"))
    assert main(["embed", str(config)]) == 1
    assert "No space left on device" in said(capsys)
    (small_disk / "ballast").unlink()
    assert main(["embed", str(config)]) == 0


@pytest.mark.slow
def test_a_full_object_store_is_no_harm(tmp_path: Path, local_ray: None) -> None:
    cluster = {"actors": 1, "cpus_per_actor": 0.5, "decode_threads": 1, "feeders": 1}
    corpus = write_corpus(tmp_path / "src", 4, 1_000)
    config = write_config(tmp_path / "c.toml", settings(tmp_path / "src", tmp_path / "t.lance", cluster=cluster))
    ballast = [ray.put(np.random.default_rng(n).integers(0, 256, 10 << 20, np.uint8)) for n in range(19)]
    assert main(["embed", str(config)]) == 0
    assert differing(contents(tmp_path / "t.lance"), truth(corpus)) == []
    assert len(ray.get(ballast[0])) == 10 << 20


# --- what a killed run leaves -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_killed_run_wrote_is_cleaned_when_it_is_surely_dead(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "src", 6, 20)
    hang = write_shard(tmp_path / "src" / "s003b.jsonl", {"h-0": "hang for an hour"})
    limits = {"lease_bytes": 1, "commit_age_s": 600.0}
    config = write_config(tmp_path / "c.toml", settings(tmp_path / "src", tmp_path / "t.lance", limits=limits))
    data = tmp_path / "t.lance" / "data"
    misbehaving = {"PYTHONPATH": str(MISBEHAVING)}
    with Driver(["embed", config], tmp_path, misbehaving) as driver:
        wait_until(lambda: data.exists() and len(list(data.iterdir())) >= 6)
        driver.kill()
    assert contents(tmp_path / "t.lance") == {}
    written = len(list(data.iterdir()))
    assert main(["clean", str(tmp_path / "t.lance")]) == 0
    assert "is at work: its files stay" in said(capsys)
    assert len(list(data.iterdir())) == written

    later = dt.datetime.now(dt.UTC) + ALIVE_FOR + dt.timedelta(minutes=1)

    class Later(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return later

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.tables.runs.dt.datetime", Later)
        assert main(["clean", str(tmp_path / "t.lance")]) == 0
    assert f"{written} orphans" in said(capsys)
    assert list(data.iterdir()) == []
    assert main(["embed", str(config)]) == 0
    corpus[hang] = {"h-0": "hang for an hour"}
    assert differing(contents(tmp_path / "t.lance"), truth(corpus)) == []
    assert lance.dataset(str(tmp_path / "t.lance")).count_rows() == 121
