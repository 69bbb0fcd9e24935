"""Texts by their words: the ids of the tokeniser itself, whatever the text."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE

from pipelines.encoders.tokens import TokenLists, concatenate, flattened, select
from pipelines.encoders.word_tokens import WordTokenizer

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8)
PIECES = [
    "goal",
    " ",
    "  ",
    "▁",
    "<s>",
    "</s>",
    "<unk>",
    "<0x41>",
    "naïve",
    "数字",
    "🙂",
    "\n",
    "\t",
    "\u3000",
    "é",
    "x" * 40,
]
LONGEST = 12


@lru_cache(maxsize=1)
def tokenizer_file() -> str:
    spec = importlib.util.find_spec("wordllama")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "tokenizers" / "l2_supercat_tokenizer_config.json")


@lru_cache(maxsize=1)
def by_words() -> WordTokenizer:
    return WordTokenizer(Tokenizer.from_file(tokenizer_file()), LONGEST)


@given(
    st.lists(st.one_of(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.text(max_size=20)), max_size=6)
)
def test_ids_are_those_of_the_tokeniser(texts: list[str]) -> None:
    whole = Tokenizer.from_file(tokenizer_file())
    whole.enable_truncation(LONGEST)
    expected = [encoding.ids for encoding in whole.encode_batch_fast(texts, add_special_tokens=False)]
    assert [list(ids) for ids in by_words().encode(texts)] == expected


def test_known_words_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    words = WordTokenizer(Tokenizer.from_file(tokenizer_file()), LONGEST)
    before = [list(ids) for ids in words.encode(["a goal", "the bank"])]
    monkeypatch.setattr("pipelines.encoders.word_tokens._MOST_IDS", 3)
    words.encode(["quite other words"])
    assert len(words._known) == 3
    assert [list(ids) for ids in words.encode(["a goal", "the bank"])] == before


def test_a_tokeniser_that_joins_words_is_refused() -> None:
    joins = Tokenizer(BPE(vocab={"a": 0, "▁": 1, "a▁": 2}, merges=[("a", "▁")]))
    with pytest.raises(ValueError, match=r"'a▁' joins two words"):
        WordTokenizer(joins, LONGEST)


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
    assert [list(one) for one in tokens.cut_to(2)] == [one[:2] for one in lists]
    assert [list(one) for one in concatenate([tokens[1:], tokens])] == lists[1:] + lists
    flat, lengths = flattened(tokens[1:])
    assert flat.tolist() == [token for one in lists[1:] for token in one]
    assert lengths.tolist() == [len(one) for one in lists[1:]]
    assert tokens[1:].nbytes == 4 * len(flat)


def test_a_place_outside_is_refused() -> None:
    with pytest.raises(IndexError):
        TokenLists.of([[1]])[1]
