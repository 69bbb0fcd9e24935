"""Token lists are a sequence of arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.encoders.token_lists import TokenLists, concatenate, flatten, select

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8)


@given(LISTS, st.data())
def test_token_lists_are_a_sequence_of_arrays(lists: list[list[int]], data: st.DataObject) -> None:
    tokens = TokenLists.of(lists)
    assert [list(one) for one in tokens] == lists
    start, stop = data.draw(st.integers(-9, 9)), data.draw(st.integers(-9, 9))
    assert [list(one) for one in tokens[start:stop]] == lists[start:stop]
    assert [list(one) for one in tokens[::-1]] == lists[::-1]
    places = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=9)) if lists else []
    chosen = select(tokens[start:stop], np.empty(0, np.int64))
    assert len(chosen) == 0
    assert [list(one) for one in select(tokens, np.array(places, np.int64))] == [lists[place] for place in places]
    assert [list(one) for one in tokens.truncate(2)] == [one[:2] for one in lists]
    assert [list(one) for one in concatenate([tokens[1:], tokens])] == lists[1:] + lists
    flat, lengths = flatten(tokens[1:])
    assert flat.tolist() == [token for one in lists[1:] for token in one]
    assert lengths.tolist() == [len(one) for one in lists[1:]]
    assert tokens[1:].nbytes == 4 * len(flat)


def test_a_place_outside_is_refused() -> None:
    with pytest.raises(IndexError):
        TokenLists.of([[1]])[1]
