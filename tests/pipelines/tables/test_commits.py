"""Only one module commits; racing or repeated commits neither lose nor double anything."""

from __future__ import annotations

import ast
import datetime as dt
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

from pipelines.storage import retry
from pipelines.tables.commits import (
    add_columns,
    commit_fragments,
    create_dataset,
    create_scalar_index,
    drop_indexes,
    open_dataset,
    rename_columns,
    update_config,
)
from pipelines.tables.compaction_commits import compact, expire_versions
from pipelines.tables.companion_commits import overwrite, upsert, write_once
from schemas.columns import SHARDS
from schemas.config import StorageConfig
from schemas.errors import TableExists, TableNotFound

ROOT = Path(__file__).parents[3]
LOCAL = StorageConfig()
SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("shard", pa.int64(), nullable=False)])
COMMITS = {
    "add_columns",
    "alter_columns",
    "cleanup_old_versions",
    "commit_existing_index_segments",
    "compact_files",
    "create_index",
    "create_scalar_index",
    "drop_index",
    "merge_insert",
    "optimize_indices",
    "update_config",
    "write_dataset",
}


@pytest.mark.parametrize("package", ["pipelines", "jobs", "cluster"])
def test_no_other_module_commits(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        if path.name in ("commits.py", "companion_commits.py", "compaction_commits.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called, of = node.func.attr, ast.unparse(node.func.value)
                assert called not in COMMITS, f"{path}:{node.lineno} calls {called}"
                assert (of, called) != ("LanceDataset", "commit"), f"{path}:{node.lineno} commits"


def rows(*shards: int) -> pa.Table:
    return pa.table({"id": [f"r{shard}" for shard in shards], "shard": list(shards)}, schema=SCHEMA)


def stored(uri: str) -> list[int]:
    return sorted(open_dataset(uri, LOCAL).to_table()["shard"].to_pylist())


def add(uri: str, *shards: int, stale: set[int] | None = None, seen: lance.LanceDataset | None = None) -> None:
    """Commit rows, one for each shard, against the version that was seen."""
    dataset = seen or open_dataset(uri, LOCAL)
    commit_fragments(dataset, write_fragments(rows(*shards), uri, schema=SCHEMA), stale or set(), "run", LOCAL)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A dataset with rows of the shards 1 and 2."""
    address = str(tmp_path / "t.lance")
    create_dataset(address, SCHEMA, LOCAL)
    add(address, 1)
    add(address, 2)
    return address


def test_a_dataset_is_created_once(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TableExists, match="exists already"):
        create_dataset(uri, SCHEMA, LOCAL)
    with pytest.raises(TableNotFound):
        open_dataset(str(tmp_path / "other.lance"), LOCAL)
    assert stored(uri) == [1, 2]


@pytest.mark.parametrize("ours", [None, {1}, {1, 2}], ids=["adds", "replaces some", "replaces all"])
@pytest.mark.parametrize("theirs", [None, {2}], ids=["they add", "they replace"])
def test_a_commit_against_an_older_version_conflicts(uri: str, ours: set[int] | None, theirs: set[int] | None) -> None:
    seen = open_dataset(uri, LOCAL)
    add(uri, 8, stale=theirs)
    before = stored(uri)
    with pytest.raises(CommitConflictError):
        add(uri, 9, stale=ours, seen=seen)
    assert stored(uri) == before
    add(uri, 9, stale=ours)
    assert stored(uri) == sorted({*before, 9} - (ours or set()))


def test_the_run_stands_in_the_transaction(uri: str) -> None:
    transaction = open_dataset(uri, LOCAL).get_transactions(1)[0]
    assert transaction.transaction_properties["lake.run"] == "run"


def test_a_change_that_is_made_already_is_not_committed_again(uri: str) -> None:
    def prepare() -> int:
        add_columns(uri, [pa.field("named" if is_renamed else "new", pa.int32())], LOCAL)
        rename_columns(uri, {"new": "named"}, LOCAL)
        update_config(uri, {"lake:key": "value"}, LOCAL)
        return int(open_dataset(uri, LOCAL).version)

    is_renamed = False
    before, is_renamed = prepare(), True
    assert prepare() == before
    assert open_dataset(uri, LOCAL).schema.names == ["id", "shard", "named"]
    assert open_dataset(uri, LOCAL).config()["lake:key"] == "value"


def test_an_upsert_may_be_repeated_and_removes_only_what_it_is_told_to(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.shards.lance")
    create_dataset(uri, SHARDS, LOCAL)
    now = dt.datetime.now(dt.UTC)

    def record(shard: int, count: int) -> dict[str, object]:
        some = {"uri": "u", "size": 1, "etag": "e", "rejects": 0, "run": "r", "landed_at": now}
        return {"shard": shard, "rows": count, **some}

    upsert(uri, ["shard"], pa.Table.from_pylist([record(1, 1), record(2, 2), record(3, 3)], SHARDS), LOCAL)
    for _ in range(2):
        changed = pa.Table.from_pylist([record(1, 10), record(4, 4)], SHARDS)
        upsert(uri, ["shard"], changed, LOCAL, remove="shard IN (1, 2)")
    found = open_dataset(uri, LOCAL).to_table().sort_by("shard")
    assert found["shard"].to_pylist() == [1, 3, 4]
    assert found["rows"].to_pylist() == [10, 3, 4]


def test_a_dataset_named_by_its_content_is_written_once(tmp_path: Path) -> None:
    uri = str(tmp_path / "rotation-0123.lance")
    write_once(uri, rows(1), LOCAL)
    write_once(uri, rows(1), LOCAL)
    assert stored(uri) == [1]
    assert open_dataset(uri, LOCAL).version == 1


def test_a_retry_rebuilds_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    made = 0

    def make() -> pa.RecordBatchReader:
        nonlocal made
        made += 1
        if made == 2:
            raise OSError("the store fails")
        return rows(made).to_reader()

    uri = f"file://{tmp_path}/lists.lance"
    for _ in range(2):
        overwrite(uri, make, SCHEMA, LOCAL)
    assert made == 3
    assert stored(uri) == [3]


def test_indexes_are_dropped_fragments_compacted_versions_expired(uri: str) -> None:
    create_scalar_index(uri, "id", LOCAL)
    create_scalar_index(uri, "shard", LOCAL)
    drop_indexes(uri, ["id"], LOCAL)
    drop_indexes(uri, ["id"], LOCAL)
    assert [index.field_names for index in open_dataset(uri, LOCAL).describe_indices()] == [["shard"]]
    open_dataset(uri, LOCAL).tags.create("prod", 2)
    compact(uri, LOCAL)
    assert len(open_dataset(uri, LOCAL).get_fragments()) == 1
    assert expire_versions(uri, dt.timedelta(0), LOCAL) > 0
    newest = open_dataset(uri, LOCAL)
    assert [version["version"] for version in newest.versions()] == [2, newest.version]
    assert stored(uri) == [1, 2]
