"""A split depends on the key and its settings alone, and is what the first release chose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.splits import Split


@given(st.text(max_size=6), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_a_larger_share_holds_out_what_a_smaller_one_does(key: str, one: float, other: float, seed: int) -> None:
    low, high = (Split(share=share, seed=seed) for share in sorted([one, other]))
    assert not low.holds_out(key) or high.holds_out(key)
    assert not Split(share=0, seed=seed).holds_out(key)
    assert Split(share=1, seed=seed).holds_out(key)
    assert Split.from_json(high.to_json(), "f") == high


def test_the_share_held_out_is_about_what_was_asked_and_the_same_for_ever() -> None:
    held = [i for i in range(10_000) if Split(share=0.15).holds_out(str(i))]
    assert len(held) / 10_000 == pytest.approx(0.15, abs=0.02)
    assert held[:5] == [10, 16, 31, 34, 35]


def test_words_that_are_removed_do_not_part_a_group() -> None:
    split = Split(share=0.5, without=("man", "woman"))
    assert split.holds_out("man cook") == split.holds_out("woman cook") == split.holds_out("cook")
