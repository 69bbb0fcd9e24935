"""Tiny models with random weights, saved as their library saves them: they count for the rule, not for the numbers."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipelines.encoders import BadSample, EncoderSpec, Raw, load_encoder, load_preparer, registry
from schemas.config import EncoderConfig, LimitsConfig
from schemas.records import Side

SIDES: tuple[Side, ...] = ("query", "document")

WORDS = [
    "the",
    "a",
    "of",
    "goal",
    "match",
    "team",
    "minister",
    "vote",
    "bank",
    "rate",
    "share",
    "film",
    "song",
    "prize",
    "phone",
    "game",
    "search",
    "query",
    "document",
    ":",
    "_",
]
TEXTS = [
    "the minister lost the vote",
    "goal",
    "the bank cut a rate : share of the team rose",
    "a film of the song match the prize " * 6,
]


def save_tokenizer(
    folder: Path, *, max_length: int = 64, causal: bool = False, truncation_side: Literal["left", "right"] = "right"
) -> None:
    """A word-level tokeniser with BERT's special tokens at both ends, or with an end token only, as decoders have."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]" if causal else "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        model_max_length=max_length,
        truncation_side=truncation_side,
    ).save_pretrained(folder)


def save_model(folder: Path, model_class: Any, config: Any, *, seed: int = 0) -> Path:
    """Save a model with random weights large enough that rounding shows."""
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def small_text_config(config_class: Any, **more: Any) -> Any:
    """A text config of two layers and 32 dims."""
    return config_class(
        vocab_size=4 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=128,
        pad_token_id=0,
        **more,
    )


def save_preprocessor(folder: Path, **settings: Any) -> None:
    """Write a preprocessor file as the hub holds it."""
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def register_like(monkeypatch: pytest.MonkeyPatch, like: str, **changes: Any) -> EncoderSpec:
    """Register a model of other sizes under a name of its own, with the rule of a known one."""
    spec = replace(
        registry.encoder_spec(like), name=f"tiny-{like}", **({"runs_code": False, "is_verified": True} | changes)
    )
    monkeypatch.setitem(registry.REGISTRY, spec.name, spec)
    return spec


def encode(config: EncoderConfig, values: list[Raw]) -> npt.NDArray[np.float32]:
    """Prepare and encode inputs, none of which may be bad."""
    prepared = load_preparer(config, LimitsConfig()).prepare(values)
    assert not any(isinstance(p, BadSample) for p in prepared)
    return load_encoder(config).encode([p for p in prepared if not isinstance(p, BadSample)])


def photo(size: tuple[int, int], seed: int = 0) -> bytes:
    """A smooth image as a PNG."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


PHOTOS: list[Raw] = [photo((90, 60)), photo((40, 70), 1), photo((64, 64), 2)]
