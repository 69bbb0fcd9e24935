"""A shard is known by what it is, and errors are one tree."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from schemas import errors
from schemas.errors import LakeError, ShardsFailed, nearest
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


def test_every_error_is_of_the_tree_and_drawn_in_it() -> None:
    drawn = errors.__doc__ or ""
    raised = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LakeError)]
    assert len(raised) > 10
    for each in raised:
        assert each.__name__ in drawn


def test_failed_shards_are_counted_and_the_first_is_named() -> None:
    error = ShardsFailed({"a.tar": "broken", "b.tar": "gone"}, 7)
    assert "2 of 7 shards failed, all others are committed; first: a.tar: broken" in str(error)
    assert (error.failed["b.tar"], error.total) == ("gone", 7)


def test_the_nearest_word_is_offered_where_there_is_one() -> None:
    assert nearest("bacth", ["batch", "name"]) == "; did you mean 'batch'?"
    assert nearest("qqqq", ["batch", "name"]) == ""


def test_seconds_of_leases_add_up_stage_by_stage() -> None:
    both = StageSeconds(total=10, read=1) + StageSeconds(total=5, write=2)
    assert both == StageSeconds(total=15, read=1, write=2)


def test_a_run_is_bound_by_the_stage_that_others_wait_for() -> None:
    assert StageSeconds(total=10, encode=9, encoder_waited=0.5, write=0.5).bound_by == "encode"
    assert StageSeconds(total=10, encode=1, encoder_waited=1, write=8).bound_by == "write"
    assert StageSeconds(total=10, encoder_waited=8, read=7, prepare=1).bound_by == "read"
    assert StageSeconds(total=10, encoder_waited=8, read=1, prepare=7).bound_by == "prepare"
