"""Text models of transformers give what their documented recipe gives, at every dim, for queries and documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    NomicBertConfig,
    NomicBertModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from pipelines.vectors.matryoshka import cut
from schemas.config import EncoderConfig
from schemas.records import Side
from tests.support.tiny_encoders import (
    SIDES,
    TEXTS,
    encode,
    register_like,
    save_model,
    save_tokenizer,
    small_text_config,
)


@pytest.mark.parametrize("side", SIDES)
def test_nomic_text_is_mean_then_layer_norm_then_slice_then_l2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: Side
) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, NomicBertModel, small_text_config(NomicBertConfig))
    spec = register_like(monkeypatch, "nomic-embed-text-v1.5", dims=(8, 16, 32), max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(tmp_path), side=side), TEXTS)

    prefix = {"query": "search_query: ", "document": "search_document: "}[side]
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), NomicBertModel.from_pretrained(tmp_path).eval()
    batch = tokenizer([prefix + text for text in TEXTS], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    mask = batch["attention_mask"].unsqueeze(-1).float()
    pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    normed = functional.layer_norm(pooled, normalized_shape=(pooled.shape[1],))
    for dim in spec.dims:
        recipe = functional.normalize(normed[:, :dim], p=2, dim=1).numpy()
        np.testing.assert_allclose(cut(ours, dim), recipe, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("like", "model_class", "config_class", "prompts"),
    [
        (
            "mxbai-embed-large-v1",
            BertModel,
            BertConfig,
            ("Represent this sentence for searching relevant passages: ", ""),
        ),
        (
            "snowflake-arctic-embed-m-v1.5",
            BertModel,
            BertConfig,
            ("Represent this sentence for searching relevant passages: ", ""),
        ),
        ("bge-m3", XLMRobertaModel, XLMRobertaConfig, ("", "")),
        ("snowflake-arctic-embed-l-v2.0", XLMRobertaModel, XLMRobertaConfig, ("query: ", "")),
    ],
)
def test_cls_models_take_the_first_token(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    side: Side,
    like: str,
    model_class: Any,
    config_class: Any,
    prompts: tuple[str, str],
) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, model_class, small_text_config(config_class))
    spec = register_like(monkeypatch, like, dims=(16, 32), max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(tmp_path), side=side), TEXTS)

    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), model_class.from_pretrained(tmp_path).eval()
    prefix = prompts[SIDES.index(side)]
    batch = tokenizer([prefix + text for text in TEXTS], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        first = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[:, 0]
    for dim in spec.dims:
        np.testing.assert_allclose(cut(ours, dim), functional.normalize(first[:, :dim]).numpy(), atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("like", "model_class", "config_class", "prompts"),
    [
        ("e5-base-v2", BertModel, BertConfig, ("query: ", "passage: ")),
        ("modernbert-embed-base", ModernBertModel, ModernBertConfig, ("search_query: ", "search_document: ")),
    ],
)
def test_mean_models_leave_the_padding_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    side: Side,
    like: str,
    model_class: Any,
    config_class: Any,
    prompts: tuple[str, str],
) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, model_class, small_text_config(config_class))
    spec = register_like(monkeypatch, like, dims=(32,), max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(tmp_path), side=side), TEXTS)

    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), model_class.from_pretrained(tmp_path).eval()
    prefix = prompts[SIDES.index(side)]
    batch = tokenizer([prefix + text for text in TEXTS], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    hidden = hidden.masked_fill(~batch["attention_mask"][..., None].bool(), 0.0)
    recipe = functional.normalize(hidden.sum(1) / batch["attention_mask"].sum(1)[..., None]).numpy()
    np.testing.assert_allclose(ours, recipe, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of torch's own old corners
def test_torch_compile_changes_no_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, BertModel, small_text_config(BertConfig))
    spec = register_like(monkeypatch, "e5-base-v2", dims=(32,), max_length=64)
    plain = EncoderConfig(name=spec.name, path=str(tmp_path))
    compiled = plain.model_copy(update={"compile": True})
    np.testing.assert_allclose(encode(compiled, list(TEXTS)), encode(plain, list(TEXTS)), atol=1e-5)
