"""Text encoders in wheels: rows that depend on their own text only, preparers that are safe in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.embedding.batching import BatchBudget, encode_safely
from pipelines.encoders import BadSample, Encoder, Prepared, count_texts, load_encoder, load_preparer, resolve
from pipelines.vectors.matryoshka import cut
from schemas.config import EncoderConfig, LimitsConfig
from schemas.records import TextCounts

WORDS = st.sampled_from(["goal", "bank", "the", "minister", "said", "naïve", "数", "🙂", "x" * 40, "2005", "\n", "—"])
TEXT = st.lists(WORDS, min_size=1, max_size=120).map(" ".join).filter(str.strip)
PACKAGED_TEXT = ["wordllama", "all-MiniLM-L6-v2"]


@lru_cache(maxsize=4)
def _encoder(name: str) -> Encoder:
    torch.set_num_threads(1)
    return load_encoder(EncoderConfig(name=name))


def _prepare(name: str, texts: list[str]) -> list[Prepared]:
    prepared = load_preparer(EncoderConfig(name=name), LimitsConfig()).prepare(texts)
    return [p for p in prepared if not isinstance(p, BadSample)]


@pytest.mark.parametrize("name", PACKAGED_TEXT)
def test_a_preparer_may_be_used_from_many_threads(name: str) -> None:
    preparer = load_preparer(EncoderConfig(name=name), LimitsConfig())
    texts = [f"the minister of round {i} said " * (1 + i % 7) for i in range(200)]
    alone = [[list(one) for one in preparer.prepare(texts[i : i + 10])] for i in range(0, 200, 10)]
    with ThreadPoolExecutor(8) as threads:
        together = threads.map(lambda i: [list(one) for one in preparer.prepare(texts[i : i + 10])], range(0, 200, 10))
    assert list(together) == alone


@pytest.mark.parametrize(("name", "special"), [("wordllama", 0), ("all-MiniLM-L6-v2", 2)])
def test_texts_that_are_cut_are_counted(name: str, special: int) -> None:
    preparer = load_preparer(EncoderConfig(name=name), LimitsConfig())
    longest = resolve(EncoderConfig(name=name)).max_length
    assert longest is not None
    words = [longest - special + more for more in (-1, 0, 1, 2, 9 * longest)]  # each word is one token
    texts = ["a", *(" ".join(["the"] * count) for count in words)]
    left_out = sum(count + special - longest for count in words[2:])
    counts = count_texts(preparer, texts, _prepare(name, texts))
    assert counts == TextCounts(sum(words) + 1 + special * len(texts), 3, left_out)
    assert count_texts(preparer, [], _prepare(name, [])) == TextCounts()


def test_the_cut_of_256_to_64_is_the_cut_to_64_for_real_vectors() -> None:
    x_BD = _encoder("wordllama").encode(_prepare("wordllama", ["a goal", "the bank said", "it rained"]))
    np.testing.assert_allclose(cut(cut(x_BD, 128), 64), cut(x_BD, 64), atol=1e-6)
    for dim in resolve(EncoderConfig(name="wordllama")).dims:
        np.testing.assert_allclose(np.linalg.norm(cut(x_BD, dim), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", PACKAGED_TEXT)
@settings(max_examples=12)
@given(texts=st.lists(TEXT, min_size=2, max_size=12), data=st.data())
def test_a_row_depends_on_its_own_text_only(name: str, texts: list[str], data: st.DataObject) -> None:
    encoder, prepared = _encoder(name), _prepare(name, texts)
    alone = np.concatenate([encoder.encode([one]) for one in prepared])
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(prepared), alone, atol=1e-5)
    shuffled = data.draw(st.permutations(range(len(prepared))))
    np.testing.assert_allclose(encoder.encode([prepared[i] for i in shuffled]), alone[shuffled], atol=1e-5)
    lengths = [len(p) for p in prepared]
    budget = BatchBudget(units=64, rows=3, ceiling=64)
    planned = np.zeros_like(alone)
    for batch in budget.plan(np.asarray(lengths)):
        some = encode_safely(encoder, [prepared[i] for i in batch], np.asarray(lengths)[batch], budget)
        planned[batch[some.good]] = some.vectors_BD
    np.testing.assert_allclose(planned, alone, atol=1e-5)
