"""A shard is known by its identity, and the seconds of leases add up."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Shard, StageSeconds

SHARD = Shard("s3://b/x.tar", 10, "abc", "webdataset")


def test_a_shard_is_another_when_its_name_size_or_content_is() -> None:
    others = [replace(SHARD, uri="s3://b/y.tar"), replace(SHARD, size=11), replace(SHARD, etag="abd")]
    assert len({SHARD.id, *(other.id for other in others)}) == 4
    assert replace(SHARD).id == SHARD.id


@given(st.text(), st.integers(0, 1 << 60), st.text())
def test_an_identity_fits_the_ledger(uri: str, size: int, etag: str) -> None:
    assert 0 <= Shard(uri, size, etag, "jsonl").id < 1 << 63


def test_an_identity_is_the_same_tomorrow() -> None:
    assert SHARD.id == 6_827_863_184_737_845_748


def test_seconds_of_leases_add_up_stage_by_stage() -> None:
    both = StageSeconds(total=10, read=1) + StageSeconds(total=5, write=2)
    assert both == StageSeconds(total=15, read=1, write=2)


def test_a_run_is_bound_by_the_stage_that_others_wait_for() -> None:
    assert StageSeconds(total=10, encode=9, encoder_waited=0.5, write=0.5).bound_by == "encode"
    assert StageSeconds(total=10, encode=1, encoder_waited=1, write=8).bound_by == "write"
    assert StageSeconds(total=10, encoder_waited=8, read=7, prepare=1).bound_by == "read"
    assert StageSeconds(total=10, encoder_waited=8, read=1, prepare=7).bound_by == "prepare"
