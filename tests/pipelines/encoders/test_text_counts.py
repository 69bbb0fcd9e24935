"""Tokens of whole texts, and those that an encoder does not get, compared with the library's own tokeniser."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from pipelines.encoders import BadSample, count_texts, load_preparer, text_counts
from pipelines.encoders.hugging_face import TextPreparer
from pipelines.encoders.text_counts import count_cut
from schemas.config import EncoderConfig, LimitsConfig
from schemas.records import TextCounts
from tests.support.tiny_encoders import TEXTS, WORDS, register_like, save_model, save_tokenizer, small_text_config

LIMIT = 16
RNG = np.random.default_rng(0)
# Of every length around the limit, and far beyond it.
MIXED = [*TEXTS, *(" ".join(RNG.choice(WORDS[:-2], n)) for n in (*range(11, 19), 300))]


def truth(folder: Path, prompt: str = "") -> TextCounts:
    """Count as the model's own library does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = np.array([len(tokenizer(prompt + text, truncation=False, verbose=False)["input_ids"]) for text in MIXED])
    return TextCounts(int(whole.sum()), int((whole > LIMIT).sum()), int(np.maximum(whole - LIMIT, 0).sum()))


def counts(preparer: TextPreparer) -> TextCounts:
    prepared = preparer.prepare(MIXED)
    return count_texts(preparer, MIXED, [one for one in prepared if not isinstance(one, BadSample)])


@pytest.mark.parametrize("pad", ["[PAD]", "[SEP]"])
def test_padding_is_no_token_also_where_it_looks_like_the_end_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pad: str
) -> None:
    save_tokenizer(tmp_path, max_length=LIMIT)
    save_model(
        tmp_path,
        SiglipModel,
        SiglipConfig(
            text_config=small_text_config(dict) | {"max_position_embeddings": LIMIT},
            vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32},
        ),
    )
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(tmp_path)
    spec = register_like(monkeypatch, "siglip-base-patch16-224", dims=(32,), max_length=LIMIT)
    preparer = load_preparer(EncoderConfig(name=spec.name, path=str(tmp_path)), LimitsConfig())
    assert counts(preparer) == truth(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_fast", [True, False])
def test_prompts_count_as_tokens_and_python_tokenisers_count_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    save_tokenizer(tmp_path, max_length=LIMIT)
    spec = register_like(
        monkeypatch, "modernbert-embed-base", prompts={"document": "search _ document : "}, max_length=LIMIT
    )
    preparer = TextPreparer(spec, EncoderConfig(name=spec.name), str(tmp_path), None)
    if not is_fast:
        monkeypatch.setattr(preparer, "_fast", None)
    assert counts(preparer) == truth(tmp_path, "search _ document : ")


def test_of_an_endless_text_the_rest_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_counts, "_MOST_COUNTED", 100)
    seen: list[int] = []

    def count(texts: list[str]) -> np.ndarray:
        seen.append(sum(map(len, texts)))
        return np.array([len(text.split()) for text in texts])

    texts = ["owl " * 10, "owl " * 20, "owl " * 5_000]
    found = count_cut(texts, np.array([10, 15, 15]), np.array([False, True, True]), 15, partial(count))
    assert found == TextCounts(5_030, 2, 5 + 4_985)
    assert max(seen) <= 100
