"""A run whose cluster is lost ends with one sentence, an exit code of its own and a journal that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.head_watch import answers, is_lost, raise_if_lost, watching_head
from pipelines.tables.runs import read_journal
from pipelines.tables.table import VectorTable
from schemas.errors import CLUSTER_LOST_CODE, TableNotFound
from tests.support.clusters import own_cluster
from tests.support.corpus import contents, settings, write_config, write_corpus
from tests.support.drivers import Driver, run_job, wait_until


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
