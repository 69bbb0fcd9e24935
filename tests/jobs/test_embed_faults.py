"""`mlake embed` when shards, actors, disks or people stop it: it ends with a reason, and the same command resumes it.

Faults at random moments are in tests/chaos.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import lance
import numpy as np
import pytest
import ray

from jobs.__main__ import main
from pipelines.tables.maintenance import delete_orphans, find_orphans
from pipelines.tables.table import VectorTable
from tests.support.corpus import contents, differing, settings, texts, truth, write_config, write_corpus, write_shard
from tests.support.drivers import MISBEHAVING, Driver, run_job, wait_until
from tests.support.embedded_lakes import embed, make_lake, row_count, runs_of
from tests.support.embedding_server import DIM, running_server
from tests.support.printed import Printed
from tests.support.without_ray import in_process

# --- failing shards ---------------------------------------------------------------------------------------------------


def test_a_shard_that_cannot_be_read_is_given_up_and_the_others_land(
    tmp_path: Path, local_ray: None, printed: Printed
) -> None:
    folder, corpus, config = make_lake(tmp_path, limits={"lease_bytes": 1 << 20, "commit_age_s": 0.2})
    (folder / "src" / "s005.parquet").write_bytes(b"PAR1 and nothing else")
    options = ("--set", f'shards=["{folder}/src/*"]')
    assert embed(config, *options) == 1
    words = printed()
    assert "1 of 4 shards failed, all others are committed" in words
    assert "s005.parquet is not a whole Parquet file" in words
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []
    assert runs_of(folder)[0]["state"] == "incomplete"
    (folder / "src" / "s005.parquet").unlink()
    corpus[write_shard(folder / "src" / "s005.jsonl", texts("s005", 4, 0))] = texts("s005", 4, 0)
    with in_process():
        assert embed(config, *options) == 0
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []


PRICE = {"price_per_million_tokens": 2}


@pytest.mark.parametrize("status", [400, 401])
def test_a_server_that_refuses_everything_ends_the_run_and_one_bad_input_costs_itself(
    tmp_path: Path, without_ray: None, printed: Printed, status: int
) -> None:
    description = tmp_path / "served.json"
    folder, _, config = make_lake(tmp_path, encoder={"name": "served", "path": str(description)})
    write_shard(folder / "src" / "s001.jsonl", texts("s001", 20, 0) | {"s001-7": "bad"})
    with running_server() as server:
        description.write_text(json.dumps({"api": "openai", "url": server.url, "model": "m", "dims": [4, DIM]} | PRICE))
        server.refuses = status
        assert embed(config) == 2
        words = printed()
        assert f"it answers {status}: " in words
        assert "served.json" in words
        assert (words.count("error: "), row_count(folder), "given up" in words) == (1, 0, False)
        assert len(server.asked) < 30
        server.refuses = 0
        assert embed(config) == 0
        billed = server.billed
    assert row_count(folder) == 59
    summary = json.loads(lance.dataset(str(folder / "t.runs.lance")).to_table()["summary"].to_pylist()[-1])
    assert (summary["usage"]["tokens"], summary["usage"]["cost"]) == (billed, pytest.approx(2e-6 * billed))
    words = printed()
    assert (
        f"asked the server for {billed:,} tokens in {summary['usage']['requests']} requests, as it counts them" in words
    )
    assert "whether it cut some is not known" in words
    (reject,) = lance.dataset(str(folder / "t.rejects.lance")).to_table().to_pylist()
    assert (reject["key"], reject["reason"]) == ("s001-7", "refused")


@pytest.mark.slow
def test_a_shard_that_kills_its_actor_is_given_up_and_a_sample_that_hangs_is_rejected(
    tmp_path: Path, local_ray: None, printed: Printed
) -> None:
    limits = {
        "max_tries": 2,
        "lease_bytes": 1,
        "commit_age_s": 0.2,
        "sample_timeout_s": 1.0,
        "max_reject_fraction": 1.0,
    }
    folder, corpus, config = make_lake(tmp_path, shards=6, rows=8, limits=limits)
    poison = write_shard(folder / "src" / "s002b.jsonl", {"p-0": "river", "p-1": "cyanide"})
    slow = write_shard(folder / "src" / "s003b.jsonl", {"h-0": "glass", "h-1": "hang", "h-2": "stone"})
    ended = run_job(["embed", config], tmp_path, {"PYTHONPATH": str(MISBEHAVING)})
    assert ended.code == 1, ended.err
    words = " ".join(ended.err.split())
    assert "1 of 8 shards failed, all others are committed" in words
    assert poison in words
    corpus[slow] = {"h-0": "glass", "h-2": "stone"}
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []
    (reject,) = lance.dataset(str(folder / "t.rejects.lance")).to_table().to_pylist()
    assert (reject["key"], reject["reason"]) == ("h-1", "timeout")
    # Once the cause is gone, only that shard is left to do.
    corpus[poison] = {"p-0": "river", "p-1": "cyanide"}
    printed()
    assert embed(config) == 0
    assert "2 rows from 1 shard in" in printed()
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []


@pytest.mark.slow
def test_an_actor_that_runs_out_of_memory_goes_on_with_smaller_batches(tmp_path: Path) -> None:
    folder, corpus, config = make_lake(tmp_path, shards=6, rows=100)
    arguments = ["embed", config, "--set", "encoder.batch=64", "--log", "json"]
    ended = run_job(arguments, tmp_path, {"PYTHONPATH": str(MISBEHAVING), "MOST_ROWS": "20"})
    assert ended.code == 0, ended.err
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []
    assert "was done with batches of 1/4 of their size: so is all work from now on; set encoder.batch" in ended.out


# --- stopping ---------------------------------------------------------------------------------------------------------


def messages(driver: Driver) -> str:
    return " ".join(json.loads(line).get("message", "") for line in driver.output().splitlines())


def test_ctrl_c_commits_what_is_in_flight_and_stops(tmp_path: Path, local_ray: None) -> None:
    one_at_a_time = {"actors": 1, "cpus_per_actor": 0.5, "decode_threads": 1, "leases_per_actor": 1}
    folder, corpus, config = make_lake(tmp_path, shards=6, rows=3, cluster=one_at_a_time)
    gate = tmp_path / "gate"
    held = {"h-0": "river", "h-1": f"wait for {gate}"}
    uri = write_shard(folder / "src" / "s001b.jsonl", held)
    with Driver(["embed", config, "--log", "json"], tmp_path, {"PYTHONPATH": str(MISBEHAVING)}) as driver:
        wait_until(lambda: row_count(folder) == 6)
        driver.interrupt()
        wait_until(lambda: "finishing what is in flight" in messages(driver))
        gate.touch()
        ended = driver.end()
    assert ended.code == 130, ended.err
    assert "stopped as asked" in " ".join(ended.err.split())
    there = contents(folder / "t.lance")
    started = dict(list(corpus.items())[:2]) | {uri: held}
    assert differing(there, truth(started)) == []
    corpus[uri] = held
    (run,) = runs_of(folder)
    summary = json.loads(run["summary"])
    assert run["state"] == "stopped"
    assert summary["is_stopped"]
    assert summary["rows"] == len(there)
    with in_process():
        assert embed(config) == 0
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []


@pytest.mark.slow
def test_ctrl_c_twice_stops_now(tmp_path: Path, local_ray: None) -> None:
    folder, corpus, config = make_lake(tmp_path, shards=5, rows=3)
    uri = write_shard(folder / "src" / "s001b.jsonl", {"h-0": "hang for an hour"})
    misbehaving = {"PYTHONPATH": str(MISBEHAVING)}
    with Driver(["embed", config, "--log", "json"], tmp_path, misbehaving) as driver:
        wait_until(lambda: row_count(folder) == 15)
        driver.interrupt()
        wait_until(lambda: "finishing what is in flight" in messages(driver))
        driver.interrupt()
        ended = driver.end()
    assert ended.code == 130, ended.err
    assert "the same command resumes" in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert runs_of(folder)[0]["state"] == "stopped"
    corpus[uri] = {"h-0": "hang for an hour"}
    assert embed(config) == 0
    assert differing(contents(folder / "t.lance"), truth(corpus)) == []


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


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_the_same_command_resumes_it(
    tmp_path: Path, local_ray: None, small_disk: Path, printed: Printed
) -> None:
    corpus = write_corpus(tmp_path / "src", 24, 300)
    config = write_config(tmp_path / "c.toml", settings(tmp_path / "src", small_disk / "t.lance"))
    assert main(["embed", str(config)]) == 1
    words = printed()
    assert "No space left on device" in words
    assert "same command" in words
    there = contents(small_disk / "t.lance")
    assert there.items() <= truth(corpus).items()
    assert len(there) < 24 * 300
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert main(["embed", str(config)]) == 0
    assert differing(contents(small_disk / "t.lance"), truth(corpus)) == []


def test_a_disk_that_is_full_from_the_start_is_an_error(
    tmp_path: Path, without_ray: None, small_disk: Path, printed: Printed
) -> None:
    write_corpus(tmp_path / "src", 2, 10)
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(os.urandom(4 << 20))
    config = write_config(tmp_path / "c.toml", settings(tmp_path / "src", small_disk / "t.lance"))
    assert main(["embed", str(config)]) == 1
    assert "No space left on device" in printed()
    (small_disk / "ballast").unlink()
    assert main(["embed", str(config)]) == 0


@pytest.mark.slow
def test_a_full_object_store_changes_nothing(tmp_path: Path, local_ray: None) -> None:
    cluster = {"actors": 1, "cpus_per_actor": 0.5, "decode_threads": 1, "feeders": 1}
    corpus = write_corpus(tmp_path / "src", 4, 1_000)
    config = write_config(tmp_path / "c.toml", settings(tmp_path / "src", tmp_path / "t.lance", cluster=cluster))
    ballast = [ray.put(np.random.default_rng(n).integers(0, 256, 10 << 20, np.uint8)) for n in range(19)]
    assert main(["embed", str(config)]) == 0
    assert differing(contents(tmp_path / "t.lance"), truth(corpus)) == []
    assert len(ray.get(ballast[0])) == 10 << 20


# --- what a killed run leaves -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_of_a_killed_run_are_removed_once_it_is_surely_dead(
    tmp_path: Path, local_ray: None, printed: Printed
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
    assert "is at work: its files stay" in printed()
    assert len(list(data.iterdir())) == written

    table = VectorTable.open(str(tmp_path / "t.lance"))
    dead = find_orphans(table, alive_for=dt.timedelta(0))
    assert len(dead.paths) == written
    delete_orphans(table, dead)
    assert list(data.iterdir()) == []
    assert main(["embed", str(config)]) == 0
    corpus[hang] = {"h-0": "hang for an hour"}
    assert differing(contents(tmp_path / "t.lance"), truth(corpus)) == []
    assert lance.dataset(str(tmp_path / "t.lance")).count_rows() == 121
