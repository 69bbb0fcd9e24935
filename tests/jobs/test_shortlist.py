"""`mlake shortlist`: prefixes, indexes and lists are made, extended by what is new, and resumed after a kill."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.__main__ import main
from jobs.shortlist import run
from pipelines.shortlist.lists import read_lists
from pipelines.shortlist.planning import open_lists
from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.matryoshka import cut, unit
from schemas.columns import Ladder, Space
from schemas.config import PrefixIndexConfig, ShortlistConfig, StorageConfig
from schemas.errors import RunError
from schemas.records import LeaseResult, Shard, ShardCount
from tests.support.drivers import Driver, run_job, wait_until
from tests.support.without_ray import in_process

WIDTH = 32


def grow(uri: Path, name: str, rows: int, width: int = WIDTH) -> VectorTable:
    """Land one shard of random vectors, in a table that is made if need be."""
    space = Space(encoder="test", revision="1", ladder=Ladder(dims=(8, width)))
    table = VectorTable.open(str(uri)) if uri.exists() else create_table(str(uri), space, pa.schema([]))
    x = unit(np.random.default_rng(rows).standard_normal((rows, width)).astype(np.float32)).astype(np.float16)
    shard = Shard(name, rows, "1", "parquet")
    columns = [pa.array([f"{name}-{i}" for i in range(rows)]), pa.array(np.full(rows, shard.id)), to_arrow(x)]
    batch = pa.RecordBatch.from_arrays(columns, names=["id", "shard", "vector"])
    commit_leases(
        table, [LeaseResult((ShardCount(shard, rows, 0),), write_fragments(table, [batch]), (), rows)], run="test"
    )
    return table.refresh()


def nearest(table: VectorTable, dim: int, k: int) -> dict[str, set[str]]:
    """Return the ids of each row's nearest others by numpy."""
    rows = table.dataset.to_table(columns=["id", "vector"])
    x, ids = cut(to_numpy(rows["vector"]).astype(np.float32), dim), np.array(rows["id"].to_pylist())
    scores = x @ x.T
    np.fill_diagonal(scores, -np.inf)
    return {name: set(ids[np.argsort(-row)[:k]]) for name, row in zip(ids, scores, strict=True)}


def listed(uri: str, dim: int) -> dict[str, set[str]]:
    lists = open_lists(uri, StorageConfig())
    assert lists is not None
    found: dict[str, set[str]] = {}
    for row in lists.to_table(filter=f"dim = {dim}").to_pylist():
        found.setdefault(row["query_id"], set()).add(row["id"])
    return found


@pytest.mark.usefixtures("local_ray")
def test_prefixes_indexes_and_lists_are_made_and_then_extended(tmp_path):
    uri = tmp_path / "t.lance"
    for number in range(3):
        grow(uri, f"s{number}", 200 + number)
    config = ShortlistConfig(
        table=str(uri),
        index=PrefixIndexConfig(type="IVF_FLAT", partitions=2),
        lists={"k": 5, "exclude_self": True},
        cluster={"actors": 2},
    )

    first = run(config)

    table = VectorTable.open(str(uri))
    assert (first.fragments, first.indexed) == (3, (8,))
    assert table.prefix_dims == (8,)
    assert table.dataset.stats.index_stats("vector_8_idx")["num_unindexed_rows"] == 0
    assert first.lists is not None
    for dim in (8, WIDTH):
        assert listed(first.lists, dim) == nearest(table, dim, 5)

    with in_process():
        again = run(config)
    assert (again.fragments, again.indexed, again.searches) == (0, (), 0)

    table = grow(uri, "late", 60)
    with in_process():
        later = run(config)
    table = table.refresh()
    assert (later.fragments, later.indexed) == (0, ())
    assert table.dataset.stats.index_stats("vector_8_idx")["num_unindexed_rows"] == 0
    assert listed(first.lists, 8) == nearest(table, 8, 5)
    states = table.companion("runs").to_table(columns=["job", "state"]).to_pylist()
    assert states == [{"job": "shortlist", "state": "complete"}] * 3


@pytest.mark.usefixtures("without_ray")
def test_the_command_prints_its_plan_and_its_result(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    table = grow(tmp_path / "t.lance", "s", 100)
    config = tmp_path / "shortlist.toml"
    config.write_text(f'table = "{table.uri}"\n[lists]\nk = 5\nexclude_self = true\n')

    assert main(["shortlist", str(config), "--dry-run"]) == 0
    assert "prefix columns to add: 8" in capsys.readouterr().out
    assert table.refresh().prefix_dims == ()

    plot = tmp_path / "agreement.png"
    assert main(["shortlist", str(config), "--set", "cluster.actors=1", "--plot", str(plot)]) == 0
    said = capsys.readouterr().out
    assert "overlap with 32 dims, 100 queries" in said
    assert plot.stat().st_size > 0
    lists = open_lists(str(tmp_path / "t.shortlist.lance"), StorageConfig())
    assert lists is not None
    assert read_lists(lists, max_queries=10)[1] == 10

    assert main(["shortlist", str(config), "--set", "cluster.actors=1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["queries"], found["fragments"], found["lists"]) == (100, 0, lists.uri)
    last = {row["dim"]: row["overlap"] for row in found["overlap"] if row["rank"] == 5}
    few, full = nearest(table, 8, 5), nearest(table, WIDTH, 5)
    assert last == {8: pytest.approx(np.mean([len(few[i] & full[i]) / 5 for i in full])), WIDTH: 1}


@pytest.mark.usefixtures("without_ray")
def test_a_run_that_fails_is_incomplete_in_the_journal(tmp_path):
    table = grow(tmp_path / "t.lance", "s", 100)
    config = ShortlistConfig(table=table.uri, lists={"where": "shard / 0 = 1"}, cluster={"actors": 1})
    with pytest.raises(RunError, match="1 of 1 failed 3 times"):
        run(config)
    assert table.refresh().prefix_dims == (8,)
    (record,) = table.companion("runs").to_table().to_pylist()
    assert record["state"] == "incomplete"


def test_dims_outside_the_ladder_are_refused(tmp_path):
    table = grow(tmp_path / "t.lance", "s", 10)
    config = tmp_path / "shortlist.toml"
    config.write_text(f'table = "{table.uri}"\ndims = [16]\n')
    assert main(["shortlist", str(config)]) == 2


@pytest.mark.slow
def test_a_killed_job_resumes_and_its_lists_are_whole(tmp_path):
    uri = tmp_path / "t.lance"
    for number in range(6):
        grow(uri, f"s{number}", 66_000 + number, width=64)
    queries = grow(tmp_path / "q.lance", "q", 300, width=64)
    config = tmp_path / "shortlist.toml"
    config.write_text(f'table = "{uri}"\ndims = []\n[lists]\nqueries = "{queries.uri}"\nk = 3\n[cluster]\nactors = 1\n')
    pieces = tmp_path / "t.shortlist.parts.lance"

    with Driver(["shortlist", config], tmp_path / "log") as driver:
        wait_until(lambda: any(pieces.glob("0*.lance")))
        done = list(pieces.glob("0*.lance"))
        os.killpg(driver.process.pid, signal.SIGKILL)
        driver.process.wait()
    assert 1 <= len(done) < 6

    assert run_job(["shortlist", config], tmp_path / "log").code == 0

    killed, resumed = VectorTable.open(str(uri)).companion("runs").to_table().to_pylist()
    assert (killed["state"], resumed["state"]) == ("running", "complete")
    # Workers may have finished more lists between the count and the kill; those are not searched again either.
    assert json.loads(resumed["summary"])["searches"] <= 6 - len(done)
    lists = open_lists(str(tmp_path / "t.shortlist.lance"), StorageConfig())
    assert lists is not None
    assert lists.count_rows() == 300 * 2 * 3
    assert list(pieces.iterdir()) == []
    table = VectorTable.open(str(uri)).dataset.to_table(columns=["id", "vector"])
    asked = queries.dataset.to_table(columns=["id", "vector"])
    best = (to_numpy(asked["vector"]).astype(np.float32) @ to_numpy(table["vector"]).astype(np.float32).T).argmax(
        axis=1
    )
    top = lists.to_table(filter="dim = 64 AND rank = 1")
    assert top["id"].to_pylist() == table["id"].take(pa.array(best)).to_pylist()
