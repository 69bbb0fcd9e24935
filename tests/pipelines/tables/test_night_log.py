"""Nights of one table do not overlap, and one that was taken for dead publishes no more."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.night_log import NightLock, read_nights, refused_audit
from pipelines.tables.publication_log import read_head
from pipelines.tables.runs import ALIVE_FOR
from schemas.config import StorageConfig
from schemas.errors import NightRunning, PublicationConflict, RunExpired
from schemas.publications import GateResult
from tests.support.s3 import S3Server
from tests.support.small_tables import a_shard, commit_shards, new_table

LOCAL = StorageConfig()


def grow_old(base: str) -> None:
    then = time.time() - ALIVE_FOR.total_seconds() - 60
    for path in (Path(base) / "_nights").iterdir():
        os.utime(path, (then, then))


def test_a_second_night_waits_for_the_first(tmp_path: Path) -> None:
    base = str(tmp_path / "none_yet.lance")
    with NightLock(base, LOCAL) as lock:
        with pytest.raises(NightRunning, match=r"night 1 of .* is at work since"):
            NightLock(base, LOCAL)
        lock.check()
        lock.update(state="nothing")
    with pytest.raises(ZeroDivisionError), NightLock(base, LOCAL):
        _ = 1 // 0
    assert [(night.number, night.state) for night in read_nights(base, LOCAL)] == [(1, "nothing"), (2, "failed")]


def test_a_night_that_was_suspended_is_fenced_off(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    table = table.refresh()
    asleep = NightLock(table.uri, LOCAL)
    head = read_head(table.uri, LOCAL)
    assert head is None
    grow_old(table.uri)
    successor = NightLock(table.uri, LOCAL)
    assert successor.took_over is not None
    with pytest.raises(RunExpired, match="night 2 has taken over"):
        asleep.check()
    # Even if it looked before it was suspended, it cannot publish: the head is another one.
    with pytest.raises(PublicationConflict):
        publish(table.uri, describe(table, 1), LOCAL, PublishRequest(expected_head=0))
    fence = read_head(table.uri, LOCAL)
    assert fence is not None
    assert (fence.action, fence.state) == ("fence", None)
    publish(table.uri, describe(table, 1), LOCAL, PublishRequest(expected_head=fence.number))


def test_what_an_audit_refused_is_remembered(tmp_path: Path) -> None:
    base = str(tmp_path / "t.lance")
    gate = GateResult(gate="recall", passed=False, said="recall fell")
    with NightLock(base, LOCAL) as lock:
        lock.update(state="refused", version=7, audit=(gate,))
    assert refused_audit(base, 1, 7, LOCAL) == (gate,)
    assert refused_audit(base, 1, 8, LOCAL) == ()


def test_a_lock_in_s3(bucket: str, s3_server: S3Server) -> None:
    base = f"s3://{bucket}/t.lance"
    with NightLock(base, s3_server.storage), pytest.raises(NightRunning):
        NightLock(base, s3_server.storage)
    with NightLock(base, s3_server.storage) as lock:
        assert lock.night.number == 2
