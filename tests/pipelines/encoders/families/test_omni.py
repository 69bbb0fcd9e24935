"""Models that prepare their own input give what sentence-transformers gives, for texts and for pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pipelines.encoders import BadSample, check_trust, encode_query, load_encoder, load_preparer, make_space
from schemas.config import EncoderConfig, LimitsConfig, TrustConfig
from schemas.errors import EncoderNotTrusted
from tests.support.tiny_encoders import (
    PHOTOS,
    TEXTS,
    encode,
    register_like,
    save_model,
    save_tokenizer,
    small_text_config,
)


def save_clip(folder: Path) -> SentenceTransformer:
    save_tokenizer(folder / "bare")
    text = small_text_config(dict, projection_dim=24, bos_token_id=2, eos_token_id=3)
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    vision |= {"image_size": 32, "patch_size": 8}
    save_model(folder / "bare", CLIPModel, CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, AutoTokenizer.from_pretrained(folder / "bare")).save_pretrained(folder / "bare")
    SentenceTransformer(modules=[Transformer(str(folder / "bare"))], device="cpu").save(str(folder / "whole"))
    return SentenceTransformer(str(folder / "whole"), device="cpu")


def test_texts_and_pictures_go_the_librarys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = save_clip(tmp_path)
    prompts = {"query": "search query : ", "document": "a : "}
    spec = register_like(monkeypatch, "qwen3-vl-embedding-2b", dims=(8, 24), any_from=4, prompts=prompts)
    config = EncoderConfig(name=spec.name, path=str(tmp_path / "whole"), device="cpu")
    pictures = [Image.open(io.BytesIO(photo)).convert("RGB") for photo in PHOTOS]  # type: ignore[arg-type]
    texts = reference.encode(TEXTS, prompt="a : ", normalize_embeddings=True)
    np.testing.assert_allclose(encode(config, TEXTS), texts, atol=1e-5)  # type: ignore[arg-type]
    images = reference.encode(pictures, normalize_embeddings=True)
    np.testing.assert_allclose(encode(config, PHOTOS), images, atol=1e-5)
    asked = encode_query(make_space(config), TEXTS[0], TrustConfig(encoder_path=config.path))
    queries = reference.encode(TEXTS[:1], prompt="search query : ", normalize_embeddings=True)
    np.testing.assert_allclose(asked, queries[0], atol=1e-5)
    bad = load_preparer(config, LimitsConfig()).prepare([" ", b"no picture"])
    assert all(isinstance(one, BadSample) for one in bad)


def test_an_unverified_model_is_refused_unless_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_clip(tmp_path)
    spec = register_like(monkeypatch, "qwen3-vl-embedding-2b", dims=(24,), any_from=None, is_verified=False)
    config = EncoderConfig(name=spec.name, path=str(tmp_path / "whole"), device="cpu")
    for use in (check_trust, load_encoder, lambda c: load_preparer(c, LimitsConfig())):
        with pytest.raises(EncoderNotTrusted, match=r"encoder\.unverified=true"):
            use(config)
    with pytest.raises(EncoderNotTrusted, match="--unverified"):
        encode_query(make_space(config), "goal", TrustConfig(encoder_path=config.path))
    allowed = config.model_copy(update={"unverified": True})
    assert make_space(allowed).fingerprint == make_space(config).fingerprint
    assert encode_query(make_space(config), "goal", TrustConfig(encoder_path=config.path, unverified=True)).shape == (
        24,
    )
