"""A run whose cluster is lost ends with one sentence, an exit code of its own and a journal that says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.head_watch import answers, is_lost, raise_if_lost, watching_head
from pipelines.tables.night_log import read_nights
from pipelines.tables.runs import living_runs, read_journal
from pipelines.tables.table import VectorTable
from schemas.errors import CLUSTER_LOST_CODE, TableNotFound
from tests.support.clusters import own_cluster
from tests.support.corpus import contents, settings, write_config, write_corpus
from tests.support.drivers import ROOT, Driver, run_job, wait_until
from tests.support.small_tables import new_table


def rows(table: Path) -> int:
    try:
        return len(VectorTable.open(table))
    except TableNotFound:
        return 0


def test_a_head_that_answers_is_not_lost(local_ray: None) -> None:
    with watching_head():
        assert answers()
        assert not is_lost()
        raise_if_lost()


_HANGING = """
import sys, time
from pathlib import Path
from cluster.session import connect
from pipelines.tables.night_log import NightLock
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig

table = VectorTable.open(sys.argv[1])
with connect(), NightLock(sys.argv[1], StorageConfig()), RunRecord(table, "embed", {}):
    Path(sys.argv[2]).touch()
    time.sleep(1000)
"""


@pytest.mark.slow
def test_a_driver_that_hangs_when_the_head_is_lost_says_in_the_journal_that_it_ended(tmp_path: Path) -> None:
    table, up = new_table(tmp_path), tmp_path / "up"
    with own_cluster(RAY_gcs_rpc_server_reconnect_timeout_s="20") as cluster:
        command = [sys.executable, "-c", _HANGING, table.uri, str(up)]
        driver = subprocess.Popen(command, env=cluster.environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: up.exists() or driver.poll() is not None)
        cluster.kill()
        _, err = driver.communicate()
    assert driver.returncode == CLUSTER_LOST_CODE, err
    (entry,) = read_journal(table)
    (night,) = read_nights(table.uri, table.storage)
    assert (entry.state, night.state) == ("incomplete", "failed")
    assert "has not answered for 12 s" in entry.summary["error"]
    assert living_runs(table) == []


@pytest.mark.slow
def test_a_lost_head_ends_the_run_and_the_next_one_resumes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "src", 1500, 4)
    table = tmp_path / "t.lance"
    config = write_config(tmp_path / "config.toml", settings(tmp_path / "src", table))
    impatient = {"RAY_gcs_rpc_server_reconnect_timeout_s": "20"}
    with (
        own_cluster() as cluster,
        Driver(["embed", config], tmp_path / "log", cluster.environment | impatient) as driver,
    ):
        wait_until(lambda: rows(table) > 0)
        cluster.kill()
        ended = driver.end()
    assert ended.code == CLUSTER_LOST_CODE, ended.err
    assert "has not answered for 12 s" in ended.err
    assert "Traceback" not in ended.err
    assert [entry.state for entry in read_journal(VectorTable.open(table))] == ["incomplete"]
    assert 0 < rows(table) < 6000
    again = run_job(["embed", config], tmp_path / "log", {"RAY_ADDRESS": None})
    assert again.code == 0, again.err
    assert set(contents(table)) == {name for samples in corpus.values() for name in samples}
