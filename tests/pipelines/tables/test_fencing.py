"""No commit makes a table point at files that are gone or that a cleaner may delete."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata

from pipelines.storage.s3 import lance_options
from pipelines.tables.commits import commit_fragments
from pipelines.tables.fencing import check_files, given_up_before, store_now
from pipelines.tables.ledger import commit_leases
from pipelines.tables.maintenance import delete_orphans, find_orphans
from pipelines.tables.opening import open_dataset
from pipelines.tables.prefixes import commit_prefixes, cut_fragment, declare_prefixes, plan_prefixes
from pipelines.tables.rotate import commit_rotation, moments_of, rotate_fragments
from pipelines.tables.rotations import save_rotation
from pipelines.tables.runs import ALIVE_FOR
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.errors import RunExpired
from tests.support.s3 import S3Server, put
from tests.support.small_tables import (
    a_shard,
    commit_shards,
    contents,
    expected,
    new_table,
    off_axis_table,
    write_lease,
)


def grow_old(table: VectorTable) -> None:
    """Make every file look as if it had been written before any run that may live."""
    for path in Path(table.uri).rglob("*"):
        then = path.stat().st_mtime - ALIVE_FOR.total_seconds() - 60
        os.utime(path, (then, then))


def clean(table: VectorTable) -> int:
    return delete_orphans(table, find_orphans(table))


def embedding(folder: Path) -> tuple[VectorTable, Callable[[], object]]:
    table = new_table(folder)
    commit_shards(table, a_shard("a"))
    lease = write_lease(table, a_shard("b"))
    return table, lambda: commit_leases(table, [lease], "suspended")


def rotating(folder: Path) -> tuple[VectorTable, Callable[[], object]]:
    table = off_axis_table(folder)
    ids = [fragment.fragment_id for fragment in table.dataset.get_fragments()]
    rotation = moments_of(table, ids).rotation()
    save_rotation(rotation, table.uri)
    fragments = rotate_fragments(table, ids, rotation.fingerprint)
    return table, lambda: commit_rotation(table, rotation, fragments)


def cutting(folder: Path) -> tuple[VectorTable, Callable[[], object]]:
    table = new_table(folder)
    commit_shards(table, a_shard("a"))
    table = declare_prefixes(table, [8])
    files = [cut_fragment(table, task) for task in plan_prefixes(table, [8])]
    return table, lambda: commit_prefixes(table, files)


WRITERS = [embedding, rotating, cutting]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_suspended_writer_cannot_commit_what_a_cleaner_deleted(
    tmp_path: Path, writer: Callable[[Path], tuple[VectorTable, Callable[[], object]]]
) -> None:
    table, commit = writer(tmp_path)
    before = table.refresh().dataset.to_table()
    grow_old(table)
    assert clean(table) > 0
    with pytest.raises((RunExpired, CommitConflictError), match=r"run the same command again|preempted"):
        commit()
    assert table.refresh().dataset.to_table() == before


def test_files_that_are_gone_are_not_committed(tmp_path: Path) -> None:
    table, commit = embedding(tmp_path)
    (lost,) = set((Path(table.uri) / "data").iterdir()) - {
        Path(table.uri) / "data" / file.path for f in table.refresh().dataset.get_fragments() for file in f.data_files()
    }
    lost.unlink()
    with pytest.raises(RunExpired, match="is gone"):
        commit()
    assert contents(table) == expected(a_shard("a"))


def test_files_that_are_given_up_are_not_committed_even_before_they_are_deleted(tmp_path: Path) -> None:
    table, commit = embedding(tmp_path)
    write_lease(table, a_shard("lost"))
    grow_old(table)
    orphans = find_orphans(table)
    (Path(table.uri) / orphans.paths[0]).rename(tmp_path / "kept")
    clean(table)
    for path in orphans.paths:  # as if the cleaner had only come so far
        (Path(table.uri) / path).write_bytes((tmp_path / "kept").read_bytes())
        os.utime(Path(table.uri) / path, (1, 1))
    with pytest.raises(RunExpired, match="was given up"):
        commit()


def test_a_file_that_is_committed_while_a_cleaner_works_stays(tmp_path: Path) -> None:
    table, commit = embedding(tmp_path)
    grow_old(table)
    orphans = find_orphans(table)
    assert len(orphans.paths) == 1
    commit()
    assert delete_orphans(table, orphans) == 0
    assert contents(table) == expected(a_shard("a"), a_shard("b"))


def test_a_commit_that_looked_before_a_cleaner_came_has_to_look_again(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    lease = write_lease(table, a_shard("b"))
    seen = open_dataset(table.uri, table.storage)
    grow_old(table)
    orphans = find_orphans(table)
    kept = {path: (Path(table.uri) / path).read_bytes() for path in orphans.paths}
    delete_orphans(table, orphans)
    for path, data in kept.items():
        (Path(table.uri) / path).write_bytes(data)  # so that only the order of the commits counts
    with pytest.raises(CommitConflictError):
        commit_fragments(
            seen, [FragmentMetadata.from_json(text) for text in lease.fragments], set(), "x", table.storage
        )


def test_a_cleaner_without_orphans_changes_nothing(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    version = table.refresh().dataset.version
    grow_old(table)
    assert clean(table) == 0
    assert table.refresh().dataset.version == version
    assert given_up_before(table.refresh().dataset) is None


def test_s3_says_when_its_objects_were_written(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    storage: StorageConfig = s3_server.storage
    s3_server.client().create_bucket(Bucket="fence")
    uri = "s3://fence/t.lance"
    before = store_now(uri, storage)
    dataset = lance.write_dataset(pa.table({"a": [1]}), uri, storage_options=lance_options(storage))
    put(s3_server, "fence", "t.lance/data/x.lance", b"x")
    check_files(dataset, ["data/x.lance"], storage)
    with pytest.raises(RunExpired, match=r"y\.lance is gone"):
        check_files(dataset, ["data/x.lance", "data/y.lance"], storage)
    dataset.update_config({"lake.files_given_up_before": (before - ALIVE_FOR).isoformat()})
    check_files(dataset, ["data/x.lance"], storage)
    dataset.update_config({"lake.files_given_up_before": (store_now(uri, storage) + ALIVE_FOR).isoformat()})
    with pytest.raises(RunExpired, match="was given up"):
        check_files(dataset, ["data/x.lance"], storage)
