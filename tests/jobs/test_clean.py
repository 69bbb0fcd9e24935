"""`mlake clean` removes what a killed run left, and nothing that a living one has written."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.__main__ import main
from pipelines.storage.s3 import s3_client
from pipelines.tables.create import create_table
from pipelines.tables.maintenance import delete_orphans, find_orphans
from pipelines.tables.runs import ALIVE_FOR, RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import LimitsConfig
from tests.support.s3 import REGION, S3Server, running_moto
from tests.support.small_tables import (
    KEPT,
    SPACE,
    a_shard,
    changed,
    commit_shards,
    contents,
    expected,
    new_table,
    write_lease,
)


@pytest.fixture
def littered(tmp_path: Path) -> VectorTable:
    """A table with what a run wrote before it was killed, long ago, and with many small fragments."""
    table = new_table(tmp_path)
    for name in "abcd":
        commit_shards(table, a_shard(name))
    commit_shards(table, changed(a_shard("a")))
    write_lease(table, a_shard("never landed"))
    then = time.time() - ALIVE_FOR.total_seconds() - 60
    for path in Path(table.uri).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
    return table.refresh()


HELD = expected(changed(a_shard("a")), *(a_shard(name) for name in "bcd"))


def data_files(table: VectorTable) -> int:
    return len(list((Path(table.uri) / "data").iterdir()))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_files_of_a_killed_run_are_removed(littered: VectorTable, capsys: pytest.CaptureFixture[str]) -> None:
    before = data_files(littered)
    assert main(["clean", littered.uri, "--dry-run"]) == 0
    assert "1 orphan," in (shown := said(capsys))
    assert "0 bytes of old rotations and codebooks" in shown
    assert data_files(littered) == before
    assert main(["clean", littered.uri]) == 0
    assert "1 orphan," in (shown := said(capsys))
    assert "0 bytes of old rotations and codebooks" in shown
    assert data_files(littered) == before - 1
    assert contents(littered) == HELD
    assert main(["clean", littered.uri]) == 0
    assert "0 orphans" in said(capsys)


def test_files_of_a_running_run_stay(littered: VectorTable, capsys: pytest.CaptureFixture[str]) -> None:
    record = RunRecord(littered, "embed", LimitsConfig())
    before = data_files(littered)
    assert main(["clean", littered.uri]) == 0
    words = said(capsys)
    assert f"run {record.run} is at work: its files stay" in words
    assert "0 orphans" in words
    assert data_files(littered) == before


def test_compaction_and_old_versions(littered: VectorTable, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", littered.uri, "--compact", "--older-than", "0"]) == 0
    assert "1 fragment after compaction" in said(capsys)
    table = littered.refresh()
    assert contents(table) == HELD
    assert len(table.dataset.versions()) == 1
    assert data_files(table) == 1


def test_a_missing_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", str(tmp_path / "none.lance")]) == 2
    assert "no table at" in capsys.readouterr().err


def test_a_table_on_s3_is_cleaned(bucket: str, s3_server: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    storage = s3_server.storage
    table = create_table(f"s3://{bucket}/t.lance", SPACE, KEPT, storage)
    commit_shards(table, a_shard("a"))
    write_lease(table, a_shard("never landed"))
    options = ["--endpoint", storage.endpoint or "", "--region", storage.region or ""]
    assert main(["clean", table.uri, *options]) == 0
    assert "too young to tell whether a run needs them: 1 file" in said(capsys)
    client = s3_server.client()
    listed = client.list_objects_v2(Bucket=bucket, Prefix="t.lance/data/")
    assert listed["KeyCount"] == 2
    needed = {data.path for fragment in table.refresh().dataset.get_fragments() for data in fragment.data_files()}
    orphans = [key for each in listed["Contents"] if (key := each["Key"].rpartition("/")[2]) not in needed]
    assert delete_orphans(table, replace(find_orphans(table), paths=tuple(f"data/{key}" for key in orphans))) == 1
    assert client.list_objects_v2(Bucket=bucket, Prefix="t.lance/data/")["KeyCount"] == 1
    assert contents(table) == expected(a_shard("a"))


def test_files_that_a_store_does_not_delete_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    with running_moto() as storage:
        s3_client(storage).create_bucket(Bucket="lake")
        resource = "arn:aws:s3:::lake/t.lance/data/*"
        deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": resource}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
        s3_client(storage).put_bucket_policy(Bucket="lake", Policy=policy)
        table = create_table("s3://lake/t.lance", SPACE, KEPT, storage)
        commit_shards(table, a_shard("a"))
        commit_shards(table, changed(a_shard("a")))
        words = ["clean", table.uri, "--older-than", "0", "--endpoint", str(storage.endpoint), "--region", REGION]
        # Moto's clock has whole seconds, so versions of this second stay.
        assert 1 in (main(words) for _ in range(50))
    assert "1 file of old versions could not be deleted; the right to delete" in " ".join(
        capsys.readouterr().err.split()
    )
