"""What keeps bytes of erased rows is found wherever it is, and goes."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.__main__ import main
from pipelines.storage.s3 import s3_client
from pipelines.tables.commits import commit_without, create_scalar_index
from pipelines.tables.compaction_commits import expire_versions
from pipelines.tables.create import create_table
from pipelines.tables.erased import erased_samples, is_erased
from pipelines.tables.indexes import index_prefix
from pipelines.tables.prefixes import add_prefixes
from tests.support.erasures import INDEX, LOCAL, A, B, delete, places, search
from tests.support.s3 import running_moto
from tests.support.small_tables import KEPT, SPACE, a_shard, commit_shards, contents, expected, ids_of, new_table


def test_no_index_keeps_a_row_whose_whole_fragment_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(tmp_path)
    for shard in (A, B):
        commit_shards(table, shard)
    table = index_prefix(add_prefixes(table.refresh(), [8]), 8, INDEX)
    create_scalar_index(table.uri, "id", LOCAL)
    table.refresh().dataset.create_scalar_index("half", "BITMAP")
    search(table)
    for where, shard, new in (f"shard = {A.id}", A, a_shard("c")), ("n >= 0", B, a_shard("d")):
        assert places(tmp_path, shard, range(5))
        delete(table, capsys, where=where)
        assert main(["clean", table.uri, "--older-than", "0"]) == 0
        assert delete(table, capsys)["is_gone"]
        assert places(tmp_path, shard, range(5)) == set()
        commit_shards(table, new)
        assert contents(table).items() >= expected(new).items()


def test_a_bucket_that_keeps_what_is_deleted_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    with running_moto() as storage:
        s3_client(storage).create_bucket(Bucket="lake")
        s3_client(storage).put_bucket_versioning(Bucket="lake", VersioningConfiguration={"Status": "Enabled"})
        table = create_table("s3://lake/t.lance", SPACE, KEPT, storage)
        commit_shards(table, A)
        words = ("--endpoint", str(storage.endpoint), "--region", str(storage.region))
        assert [keeper["kind"] for keeper in delete(table, capsys, *words)["keepers"]] == ["versions"]
        expire_versions(table.uri, dt.timedelta(0), storage)
        done = delete(table, capsys, *words)
        assert (done["is_gone"], [keeper["kind"] for keeper in done["keepers"]]) == (False, ["store"])
        assert "a lifecycle rule of bucket lake" in done["keepers"][0]["command"]


def test_rows_that_only_older_versions_have_are_erased_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(tmp_path)
    for shard in (A, B):
        commit_shards(table, shard)
    create_scalar_index(table.uri, "id", LOCAL)
    commit_without(table.refresh().dataset, f"shard = {A.id}", "a withdrawal", LOCAL)
    planned = delete(table, capsys, "--dry-run")
    assert (planned["rows"], planned["rows_of_older_versions"], planned["is_gone"]) == (0, 1, False)
    done = delete(table, capsys)
    assert (done["rows_of_older_versions"], {keeper["kind"] for keeper in done["keepers"]}) == (1, {"versions"})
    assert main(["clean", table.uri, "--older-than", "0"]) == 0
    assert delete(table, capsys)["is_gone"]
    assert places(tmp_path) == set()
    # Should the file come back as it was, the sample does not.
    rows = pa.RecordBatch.from_pydict({"id": ids_of(A, 5), "shard": [A.id] * 5})
    assert np.flatnonzero(is_erased(rows, erased_samples(table.refresh()), {})).tolist() == [3]
