"""Jobs on a real cluster of the test's own, which asks for a token; and what is refused before anything is sent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from cluster.submission import JobClient, Submission, _gather
from jobs.__main__ import main
from pipelines.storage.s3 import lance_options
from pipelines.tables.table import VectorTable
from schemas.errors import ClusterUnreachable, ConfigError, InputError
from tests.support.corpus import contents, differing, lines, settings, texts, write_config, write_corpus
from tests.support.s3 import running_moto

ROOT = Path(__file__).parent.parent.parent
TOKEN = "0123456789abcdef" * 2


@dataclass
class Head:
    """A running cluster of one machine."""

    address: str
    home: Path

    def mlake(self, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user of the cluster."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"PYTHONPATH": str(ROOT), "HOME": str(self.home)} | ({"RAY_AUTH_TOKEN": token} if token else {})
        command = [sys.executable, "-m", "jobs", *words]
        return subprocess.run(command, env=env, cwd=self.home, capture_output=True, text=True, timeout=240, check=False)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("head")
    port, dashboard, agent = _free_ports(3)
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "AWS_ACCESS_KEY_ID": "any",  # the keys to the store are the cluster's
        "AWS_SECRET_ACCESS_KEY": "any",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps 127.0.0.1 as it is
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    command += [f"--dashboard-agent-listen-port={agent}", "--num-cpus=2", "--object-store-memory=200000000"]
    command += [f"--temp-dir=/tmp/mlake-{port}"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = Head(f"http://127.0.0.1:{dashboard}", home)
    try:
        for _ in range(60):
            if started.mlake("jobs", "list", "--address", started.address).returncode == 0:
                break
            time.sleep(1)
        yield started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        subprocess.run(["rm", "-rf", f"/tmp/mlake-{port}"], check=True)


@pytest.mark.slow
def test_a_verb_runs_there_and_its_exit_code_comes_back(head: Head, tmp_path: Path) -> None:
    write_corpus(tmp_path / "shards", shards=2, rows=30)
    config = write_config(tmp_path / "texts.toml", settings(tmp_path / "shards", tmp_path / "t.lance"))
    done = head.mlake("submit", "--address", head.address, "embed", str(config))
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/t.lance:60rowsfrom2shards" in "".join(done.stdout.split())  # wrapped at 80 columns
    assert '"shards_total": 2' in done.stdout
    refused = head.mlake("submit", "--address", head.address, "embed", str(config), "--set", "encoder.name=nothing")
    assert refused.returncode == 2
    assert "'nothing'" in refused.stdout

    started = head.mlake("submit", "--no-wait", "--address", head.address, "encoders", "wordllama")
    job = started.stdout.strip().splitlines()[-1]
    logs = head.mlake("jobs", "logs", job, "--address", head.address)
    assert (logs.returncode, "64" in logs.stdout) == (0, True)
    listed = head.mlake("jobs", "list", "--json", "--address", head.address)
    jobs = {row["id"]: row for row in map(json.loads, listed.stdout.splitlines())}
    assert sorted(row["exit"] for row in jobs.values()) == [0, 0, 2]
    assert jobs[job]["verb"] == "encoders"
    stopped = head.mlake("jobs", "stop", job, "--address", head.address)
    assert (stopped.returncode, "has ended before" in stopped.stdout) == (0, True)


@pytest.mark.slow
def test_the_package_of_a_class_is_sent_with_the_job(head: Head, tmp_path: Path) -> None:
    write_corpus(tmp_path / "shards", shards=2, rows=30)
    package = head.home / "mine"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner" / "__init__.py").write_text("DIMS = (256,)\n")
    template = (ROOT / "jobs" / "configs" / "my_encoder.py").read_text()
    own = template.replace("import re\n", "import re\n\nfrom mine.inner import DIMS\n").replace(
        "dims = (256,)", "dims = DIMS"
    )
    (package / "model.py").write_text(own)
    encoder = {"class": "mine.model:MyEncoder"}
    raw = settings(tmp_path / "shards", tmp_path / "t.lance") | {"encoder": encoder}
    config = write_config(tmp_path / "texts.toml", raw)
    done = head.mlake("submit", "--address", head.address, "embed", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert VectorTable.open(tmp_path / "t.lance").space.class_name == "mine.model:MyEncoder"
    assert len(contents(tmp_path / "t.lance")) == 60


@pytest.mark.slow
def test_a_store_is_all_that_is_shared_and_the_table_is_that_of_a_local_run(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    (tmp_path / "user").mkdir()
    with running_moto() as storage:
        client = boto3.client("s3", endpoint_url=storage.endpoint, region_name=storage.region)
        client.create_bucket(Bucket="bucket")
        for name in ("a", "b", "c", "d"):
            client.put_object(Bucket="bucket", Key=f"src/{name}.jsonl", Body=lines(texts(name, 25, 0)).encode())

        def write(table: str) -> str:
            raw = settings("s3://bucket/src", table, storage=storage.model_dump(exclude_none=True))
            return str(write_config(tmp_path / "user" / "texts.toml", raw))

        done = head.mlake("submit", "--address", head.address, "embed", write("s3://bucket/lake/t.lance"))
        assert done.returncode == 0, done.stdout + done.stderr
        told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert told[-1]["landed"] == told[-1]["shards_total"] == 4
        assert "100rowsfrom4shards" in "".join(done.stdout.split())

        assert main(["embed", write(str(tmp_path / "local.lance"))]) == 0
        there = contents("s3://bucket/lake/t.lance", lance_options(storage))
        assert differing(there, contents(tmp_path / "local.lance")) == []
        assert len(there) == 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "said"), [(None, "asks for a token, and none was given"), ("f" * 32, "does not accept the token")]
)
def test_a_cluster_with_tokens_refuses_in_one_sentence(head: Head, token: str | None, said: str) -> None:
    refused = head.mlake("jobs", "list", "--address", head.address, token=token)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_job_that_is_not_there_is_named(head: Head) -> None:
    refused = head.mlake("jobs", "logs", "nothing", "--address", head.address)
    assert (refused.returncode, "has no job 'nothing'" in refused.stderr) == (2, True)


def test_lines_are_passed_on_whole_and_once_though_the_stream_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.submission._POLL_S", 0.0)
    client, told = JobClient.__new__(JobClient), list[str]()
    streams = iter([["a\nb"], ["a", "\nbc\n", "d"], []])

    async def tail(job: str) -> AsyncIterator[str]:
        for chunk in next(streams):
            yield chunk
        raise RuntimeError("the connection is lost")

    states = iter(["RUNNING", "RUNNING", "SUCCEEDED"])
    client._client = SimpleNamespace(tail_job_logs=tail)  # type: ignore[assignment]
    client.logs = lambda job: "a\nbc\nde"  # type: ignore[method-assign]
    client.details = lambda job: SimpleNamespace(status=next(states))  # type: ignore[method-assign, return-value]
    assert client.follow("job", told.append) == 0
    assert told == ["a\n", "bc\n", "de"]


def test_what_cannot_be_sent_is_refused_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a token in the home folder would turn it on for this process
    here = ["--address", "http://127.0.0.1:9"]
    for words, code, said in (
        (["submit", *here, "submit", "x"], 2, "'submit' cannot be submitted; allowed: demo, embed"),
        (["submit", *here, "embed", "nowhere.toml"], 2, "no config file at nowhere.toml"),
        (["submit", *here, "--env", "x", "encoders"], 2, "--env 'x': write NAME=VALUE"),
        (["submit", "--address", "head:6379", "encoders"], 2, "the address of the cluster's dashboard is asked for"),
        (["jobs", "logs", *here], 3, "no cluster answers at http://127.0.0.1:9"),
    ):
        assert main(words) == code, words
        assert said in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ClusterUnreachable):
        JobClient("http://127.0.0.1:9").submit(Submission(["encoders"]))
    with pytest.raises(InputError, match="is not a file"):
        _gather([tmp_path], [], tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (there := tmp_path / "there").mkdir()
    for name in "ab":
        (tmp_path / name / "x.txt").write_text(name)
    with pytest.raises(ConfigError, match=r"two files are named x\.txt"):
        _gather([tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt"], [], there)
    (tmp_path / "schemas").mkdir()
    with pytest.raises(ConfigError, match="the name of a package of mlake"):
        _gather([], [tmp_path / "schemas"], there)
    config = write_config(tmp_path / "c.toml", {"encoder": {"class": "nowhere_at_all.model:Mine"}})
    assert main(["submit", *here, "embed", str(config)]) == 2
    assert "no package or file 'nowhere_at_all'" in " ".join(capsys.readouterr().err.split())
