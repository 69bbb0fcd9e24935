"""Texts by their words: the ids of the tokeniser itself, whatever the text."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE

from pipelines.encoders.word_tokenizer import WordTokenizer

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
    whole.no_truncation()
    counts = [len(encoding.ids) for encoding in whole.encode_batch_fast(texts, add_special_tokens=False)]
    assert by_words().count(texts).tolist() == counts


def test_the_cache_is_emptied_before_it_fills_the_memory() -> None:
    words = WordTokenizer(Tokenizer.from_file(tokenizer_file()), LONGEST, max_known_ids=3)
    before = [list(ids) for ids in words.encode(["a goal", "the bank"])]
    words.encode(["quite other words"])
    assert len(words._known) == 3
    assert [list(ids) for ids in words.encode(["a goal", "the bank"])] == before


def test_a_tokeniser_that_joins_words_is_refused() -> None:
    joins = Tokenizer(BPE(vocab={"a": 0, "▁": 1, "a▁": 2}, merges=[("a", "▁")]))
    with pytest.raises(ValueError, match=r"'a▁' joins two words"):
        WordTokenizer(joins, LONGEST)
