"""Long texts: the tokens are those of the whole text, though the tokeniser sees only its beginning."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipelines.encoders.text_beginnings import encode_beginnings, joins_words
from pipelines.encoders.token_lists import TokenLists

LIMIT = 4
WORDS = ["a", "goal", "naïve", "数字数字", "🙂", "\n", "  ", " ", "x" * 40, ".", "ß́", "0", "</s>", "e\u0301", " " * 30]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=120).map(" ".join), max_size=4)


@lru_cache(maxsize=1)
def llama() -> Tokenizer:
    spec = importlib.util.find_spec("wordllama")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "tokenizers" / "l2_supercat_tokenizer_config.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(LIMIT)
    tokenizer.no_padding()
    return tokenizer


class Counting:
    """A tokeniser that counts the characters that it gets."""

    def __init__(self) -> None:
        self.characters = 0

    def __call__(self, some: Sequence[str]) -> TokenLists:
        self.characters += sum(map(len, some))
        return TokenLists.of([encoding.ids for encoding in llama().encode_batch_fast(some, add_special_tokens=False)])


@given(texts)
def test_the_tokens_are_those_of_the_whole_text(some: list[str]) -> None:
    found = encode_beginnings(some, LIMIT, Counting())
    assert [list(ids) for ids in found] == [list(ids) for ids in Counting()(some)]


@pytest.mark.parametrize("text", ["word " * 100_000, "数" * 500_000, "x" * 500_000, "a\n" * 250_000])
def test_a_tokeniser_gets_no_more_than_it_needs(text: str) -> None:
    counting = Counting()
    found = encode_beginnings(["short", text], LIMIT, counting)
    assert [len(ids) for ids in found] == [len(Counting()(["short"])[0]), LIMIT]
    assert counting.characters <= 100 * LIMIT


def test_a_text_of_few_tokens_is_read_until_there_are_enough() -> None:
    text = "a" + " " * 5000 + "b c d e f"
    assert list(encode_beginnings([text], 400, Counting())[0]) == list(Counting()([text])[0])


def test_where_a_token_joins_words_the_whole_text_is_read() -> None:
    counting = Counting()
    encode_beginnings(["word " * 1000], LIMIT, counting, can_cut=lambda: False)
    assert counting.characters == 5000
    assert joins_words(["a", "▁▁a", "a▁b"])
    assert joins_words(["aĠb"])
    assert not joins_words(["ĠĠa", "▁", " x", "[CLS]"])
