"""Joint models of transformers give what that library gives, for texts and for images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from pipelines.encoders import encode_query, make_space
from schemas.config import EncoderConfig, TrustConfig
from tests.support.tiny_encoders import (
    PHOTOS,
    TEXTS,
    encode,
    register_like,
    save_model,
    save_tokenizer,
    small_text_config,
)


@pytest.mark.parametrize(
    ("like", "model_class", "config_class"),
    [
        ("clip-vit-base-patch32", CLIPModel, CLIPConfig),
        ("metaclip-2-mt5-worldwide-b32", MetaClip2Model, MetaClip2Config),
    ],
)
def test_clip_towers_share_a_space_and_equal_the_librarys_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, like: str, model_class: Any, config_class: Any
) -> None:
    save_tokenizer(tmp_path)
    text = small_text_config(dict, projection_dim=24, bos_token_id=2, eos_token_id=3)
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = config_class(
        text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 8}, projection_dim=24
    )
    save_model(tmp_path, model_class, config)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    spec = register_like(monkeypatch, like, dims=(24,), max_length=64)
    encoder_config = EncoderConfig(name=spec.name, path=str(tmp_path))

    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), model_class.from_pretrained(tmp_path).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    pixels = processor([Image.open(io.BytesIO(p)) for p in PHOTOS], return_tensors="pt")
    with torch.no_grad():
        texts = model.get_text_features(batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
        images = model.get_image_features(**pixels).pooler_output
    np.testing.assert_allclose(encode(encoder_config, TEXTS), functional.normalize(texts).numpy(), atol=1e-5)
    np.testing.assert_allclose(encode(encoder_config, PHOTOS), functional.normalize(images).numpy(), atol=1e-5)

    space, trust = make_space(encoder_config), TrustConfig(encoder_path=encoder_config.path)
    np.testing.assert_allclose(encode_query(space, TEXTS[0], trust), functional.normalize(texts).numpy()[0], atol=1e-5)
    np.testing.assert_allclose(
        encode_query(space, PHOTOS[0], trust), functional.normalize(images).numpy()[0], atol=1e-5
    )


def test_siglip_pads_texts_to_its_length_and_squashes_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tokenizer(tmp_path, max_length=16)
    text = small_text_config(dict)
    text["max_position_embeddings"] = 16
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = SiglipConfig(text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 8})
    save_model(tmp_path, SiglipModel, config)
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    spec = register_like(monkeypatch, "siglip-base-patch16-224", dims=(32,), max_length=16)
    encoder_config = EncoderConfig(name=spec.name, path=str(tmp_path))

    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), SiglipModel.from_pretrained(tmp_path).eval()
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")["input_ids"]
    pixels = processor([Image.open(io.BytesIO(p)) for p in PHOTOS], return_tensors="pt")
    with torch.no_grad():
        texts, images = model.get_text_features(ids).pooler_output, model.get_image_features(**pixels).pooler_output
    np.testing.assert_allclose(encode(encoder_config, TEXTS), functional.normalize(texts).numpy(), atol=1e-5)
    np.testing.assert_allclose(encode(encoder_config, PHOTOS), functional.normalize(images).numpy(), atol=1e-5)
