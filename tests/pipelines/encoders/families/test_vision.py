"""Image models of transformers give what that library gives."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import (
    Dinov2Config,
    Dinov2Model,
    NomicBertConfig,
    NomicBertModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from schemas.config import EncoderConfig
from tests.support.tiny_encoders import (
    PHOTOS,
    TEXTS,
    encode,
    register_like,
    save_model,
    save_tokenizer,
    small_text_config,
)


def test_dinov2_is_its_class_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14, mlp_ratio=2
    )
    save_model(tmp_path, Dinov2Model, config)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    processor.save_pretrained(tmp_path)
    spec = register_like(monkeypatch, "dinov2-small", dims=(32,))
    ours = encode(EncoderConfig(name=spec.name, path=str(tmp_path)), PHOTOS)

    model = Dinov2Model.from_pretrained(tmp_path).eval()
    pixels = processor([Image.open(io.BytesIO(p)) for p in PHOTOS], return_tensors="pt")
    with torch.no_grad():
        recipe = model(**pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(ours, functional.normalize(recipe).numpy(), atol=1e-5)


def test_nomic_vision_takes_its_texts_from_the_text_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, told = tmp_path / "seen", tmp_path / "told"
    save_model(
        seen, Dinov2Model, Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=28)
    )
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(seen)
    save_tokenizer(told)
    save_model(told, NomicBertModel, small_text_config(NomicBertConfig))
    text = register_like(monkeypatch, "nomic-embed-text-v1.5", dims=(32,), max_length=64, repo=str(told))
    spec = register_like(monkeypatch, "nomic-embed-vision-v1.5", dims=(32,), max_length=64, text_tower=text.name)
    config = EncoderConfig(name=spec.name, path=str(seen), side="query")
    alone = encode(EncoderConfig(name=text.name, path=str(told), side="query"), TEXTS)
    np.testing.assert_array_equal(encode(config, TEXTS), alone)
    assert encode(config, PHOTOS).shape == (3, 32)
