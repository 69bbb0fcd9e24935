"""Companions belong to their table, and are made anew where they are lost."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.storage.addresses import sibling
from pipelines.tables.companions import ensure_companion, read_companion
from pipelines.tables.ledger import done_shards, records_of, rejects_of, restore_companions
from pipelines.tables.runs import RunRecord, read_journal
from pipelines.tables.table import VectorTable
from schemas.errors import TableNotFound
from tests.support.small_tables import a_shard, changed, commit_shards, contents, expected, new_table


def remove(table: VectorTable, *suffixes: str) -> None:
    for suffix in suffixes:
        shutil.rmtree(sibling(table.uri, suffix))


def test_the_companions_of_a_deleted_table_are_not_believed(tmp_path: Path) -> None:
    old = new_table(tmp_path)
    commit_shards(old, a_shard("empty"), rows=0, rejects=4)
    commit_shards(old, a_shard("a"), rejects=1)
    RunRecord(old, "embed", {}).end("complete", {})
    shutil.rmtree(old.uri)
    table = new_table(tmp_path)
    assert done_shards(table) == set()
    assert rejects_of(table).num_rows == 0
    assert read_journal(table) == []
    commit_shards(table, a_shard("empty"), rows=2)
    assert contents(table) == expected(a_shard("empty"), rows=2)
    assert records_of(table.refresh())["shard"].to_pylist() == [a_shard("empty").id]


def test_companions_of_another_table_are_not_believed(tmp_path: Path) -> None:
    table, other = new_table(tmp_path), new_table(tmp_path, "other")
    commit_shards(other, a_shard("a"), rows=0, rejects=4)
    remove(table, "shards", "rejects")
    for suffix in ("shards", "rejects"):
        shutil.copytree(sibling(other.uri, suffix), sibling(table.uri, suffix))
    with pytest.raises(TableNotFound, match="belongs to another table"):
        table.companion("shards")
    assert (done_shards(table), rejects_of(table).num_rows) == (set(), 0)


def test_a_table_and_companions_that_are_copied_together_stay_together(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rows=0, rejects=4)
    shutil.copytree(table.uri, tmp_path / "copy.lance")
    for suffix in ("shards", "rejects", "runs"):
        shutil.copytree(sibling(table.uri, suffix), tmp_path / f"copy.{suffix}.lance")
    copy = VectorTable.open(str(tmp_path / "copy.lance"))
    assert (done_shards(copy), rejects_of(copy).num_rows) == ({a_shard("a").id}, 4)


def test_lost_records_are_made_anew_for_the_shards_that_are_listed(tmp_path: Path) -> None:
    table, shards = new_table(tmp_path), [a_shard(name) for name in "abc"]
    commit_shards(table, *shards, rejects=2)
    commit_shards(table, a_shard("empty"), rows=0, rejects=1)
    remove(table, "shards")
    table = table.refresh()
    assert done_shards(table) == {shard.id for shard in shards}  # the empty one is known from its record alone
    assert restore_companions(table, [*shards[:2], a_shard("new")]) == (2, 1)
    assert restore_companions(table, shards[:2]) == (0, 1)
    records = records_of(table).sort_by("uri").to_pylist()
    assert [(row["uri"], row["rows"], row["rejects"]) for row in records] == [(shard.uri, 5, 2) for shard in shards[:2]]
    assert rejects_of(table).num_rows == 4
    commit_shards(table, changed(shards[0]))
    assert contents(table) == expected(changed(shards[0]), *shards[1:])
    assert restore_companions(table.refresh(), shards) == (1, 0)
    assert restore_companions(table.refresh(), shards) == (0, 0)


@pytest.mark.parametrize("suffix", ["shards", "rejects", "runs"])
def test_a_table_without_a_companion_can_be_read_and_written(tmp_path: Path, suffix: str) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rejects=1)
    remove(table, suffix)
    assert done_shards(table.refresh()) == {a_shard("a").id}
    assert read_companion(table, suffix).num_rows == 0
    RunRecord(table, "embed", {}).end("complete", {})
    commit_shards(table, a_shard("b"), rejects=1)
    assert contents(table) == expected(a_shard("a"), a_shard("b"))


def test_runs_that_make_a_companion_anew_at_once_lose_no_row(tmp_path: Path) -> None:
    old = new_table(tmp_path)
    commit_shards(old, *(a_shard(f"old{i}") for i in range(5)))
    shutil.rmtree(old.uri)
    stolen = tmp_path / "stolen"
    shutil.copytree(sibling(old.uri, "shards"), stolen)
    table = new_table(tmp_path)
    remove(table, "shards")
    shutil.copytree(stolen, sibling(table.uri, "shards"))

    def work(number: int) -> None:
        ensure_companion(table, "shards")
        commit_shards(table, a_shard(f"s{number}"))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert records_of(table.refresh()).num_rows == table.companion("shards").count_rows() == 6
