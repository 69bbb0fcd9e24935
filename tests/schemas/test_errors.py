"""Errors are one tree, and their messages say what to do."""

from __future__ import annotations

from schemas import errors
from schemas.errors import LakeError, ShardsFailed, nearest


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
