"""Orphans are found and removed, and nothing else is."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.shortlist import add_prefixes
from pipelines.tables.ledger import commit_leases, done_shards, rejects_of
from pipelines.tables.maintenance import compact_table, delete_orphans, expire_table, find_orphans
from pipelines.tables.runs import ALIVE_FOR, RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import LimitsConfig
from tests.support.small_tables import a_shard, changed, commit_shards, contents, expected, new_table, write_lease


def files(table: VectorTable) -> set[str]:
    root = Path(table.uri)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def grow_old(table: VectorTable) -> None:
    """Make every file look as if it had been written before any run that may live."""
    then = time.time() - ALIVE_FOR.total_seconds() - 60
    for path in files(table):
        os.utime(Path(table.uri) / path, (then, then))


@pytest.fixture
def used(tmp_path: Path) -> VectorTable:
    """A table with commits, a replaced shard, a prefix column, an index and a tag."""
    table = new_table(tmp_path)
    commit_shards(table, *(a_shard(name) for name in "abc"), rows=100)
    table = table.refresh()
    table.dataset.tags.create("prod", table.dataset.version)
    table = add_prefixes(table, [8])
    table.dataset.create_index("vector_8", "IVF_FLAT", metric="cosine", num_partitions=2)
    commit_shards(table, changed(a_shard("b")), rows=50)
    return table.refresh()


def test_a_table_without_orphans_has_none(used: VectorTable) -> None:
    grow_old(used)
    orphans = find_orphans(used)
    assert (orphans.paths, orphans.nbytes, orphans.young, orphans.living) == ((), 0, 0, ())


def test_an_uncommitted_file_is_an_orphan_once_no_run_can_need_it(used: VectorTable) -> None:
    before = files(used)
    held = contents(used)
    result = write_lease(used, a_shard("lost"), a_shard("lost too"))
    lost = files(used) - before
    assert find_orphans(used).paths == ()
    assert find_orphans(used).young == len(lost) > 0
    grow_old(used)
    orphans = find_orphans(used)
    assert set(orphans.paths) == lost
    assert orphans.nbytes == sum((Path(used.uri) / path).stat().st_size for path in lost)
    assert delete_orphans(used, orphans) == len(lost)
    assert {path for path in files(used) if path.startswith(("data", "_del", "_ind"))} == {
        path for path in before if path.startswith(("data", "_del", "_ind"))
    }
    assert find_orphans(used).paths == ()
    assert contents(used) == held
    assert VectorTable.open(used.uri, "prod").dataset.count_rows() == 300
    assert used.search(np.ones(32), k=3, dim=8).num_rows == 3
    assert result.fragments


def test_a_file_that_a_living_run_may_commit_is_no_orphan(used: VectorTable) -> None:
    record = RunRecord(used, "embed", LimitsConfig())
    result = write_lease(used, a_shard("slow"))
    grow_old(used)
    orphans = find_orphans(used)
    assert (orphans.paths, orphans.living) == ((), (record.run,))
    assert orphans.young == 1
    commit_leases(used, [result], record.run)
    record.end("complete", {})
    grow_old(used)
    assert find_orphans(used).paths == ()
    assert contents(used).keys() >= expected(a_shard("slow")).keys()


def test_old_versions_expire_and_tagged_ones_stay(used: VectorTable) -> None:
    held = contents(used)
    assert expire_table(used, dt.timedelta(0)) > 0
    table = used.refresh()
    assert contents(table) == held
    assert [version["version"] for version in table.dataset.versions()] == [
        VectorTable.open(used.uri, "prod").dataset.version,
        table.dataset.version,
    ]
    assert done_shards(table) == {a_shard("a").id, changed(a_shard("b")).id, a_shard("c").id}


def test_compaction_leaves_one_fragment_and_every_row(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    shards = [a_shard(f"s{i}") for i in range(8)]
    for shard in shards:
        commit_shards(table, shard, rejects=1)
    assert len(table.refresh().dataset.get_fragments()) == 8
    assert compact_table(table.refresh()) == 1
    assert contents(table) == expected(*shards)
    assert done_shards(table.refresh()) == {shard.id for shard in shards}
    commit_shards(table, changed(shards[3]))
    assert contents(table) == expected(changed(shards[3]), *(s for s in shards if s != shards[3]))
    assert len(table.companion("shards").get_fragments()) <= 2


def test_compaction_deletes_what_replaced_contents_gave_only_while_no_run_is_at_work(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), a_shard("b"), rejects=2)
    commit_shards(table, changed(a_shard("a")), rejects=1)
    record = RunRecord(table, "embed", LimitsConfig())
    compact_table(table)
    assert (table.companion("shards").count_rows(), table.companion("rejects").count_rows()) == (3, 5)
    record.end("complete", {})
    before = rejects_of(table.refresh()).sort_by("position")
    compact_table(table)
    assert (table.companion("shards").count_rows(), table.companion("rejects").count_rows()) == (2, 3)
    assert rejects_of(table.refresh()).sort_by("position") == before
