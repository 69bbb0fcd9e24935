"""A model of the user's own in a folder: read from its files, equal to its library, asked again by its table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoTokenizer, BertConfig, BertModel, CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from pipelines.encoders import make_space
from pipelines.encoders.inference import pool
from pipelines.encoders.of_space import check_encoder, config_of
from pipelines.encoders.query import encode_query
from pipelines.encoders.registry import resolve
from schemas.config import EncoderConfig, TrustConfig
from schemas.errors import ConfigError
from tests.support.tiny_encoders import (
    PHOTOS,
    TEXTS,
    encode,
    save_model,
    save_preprocessor,
    save_tokenizer,
    small_text_config,
)

PROMPTS = {"query": "query: ", "document": "document: "}


def config_for(folder: Path, name: str = "transformers", **settings: Any) -> EncoderConfig:
    return EncoderConfig.model_validate({"name": name, "path": str(folder)} | settings)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save_tokenizer(folder)
    return save_model(folder, BertModel, small_text_config(BertConfig))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_text_model_of_transformers_gives_what_the_library_gives(bert: Path, pooling: Any) -> None:
    config = config_for(bert, pooling=pooling, prompts=PROMPTS, dims=[8], max_length=16)
    tokenizer, model = AutoTokenizer.from_pretrained(bert), BertModel.from_pretrained(bert).eval()
    for side in ("document", "query"):
        texts = [PROMPTS[side] + text for text in TEXTS]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        recipe = functional.normalize(pool(hidden, batch["attention_mask"], pooling)).numpy()
        ours = encode(config.model_copy(update={"side": side}), list(TEXTS))
        assert (ours * recipe).sum(1).min() > 0.99999
    space = make_space(config)
    assert (space.ladder.dims, space.pooling, space.max_length, space.prompts) == ((8, 32), pooling, 16, PROMPTS)
    # A search loads the encoder from the space and the user's own path alone.
    asked = config_of(space, TrustConfig(encoder_path=str(bert)))
    check_encoder(space, asked)
    assert make_space(asked).fingerprint == space.fingerprint
    found = encode_query(space, "goal", trust=TrustConfig(encoder_path=str(bert)))
    np.testing.assert_allclose(found, encode(config.model_copy(update={"side": "query"}), ["goal"])[0], atol=1e-6)


def test_images_and_joint_models_of_transformers_are_known_by_their_files(tmp_path: Path) -> None:
    image = save_model(
        tmp_path / "image",
        Dinov2Model,
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14),
    )
    rule = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": True, "resample": 3}
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    norm = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    save_preprocessor(image, image_processor_type="BitImageProcessor", **rule, **sizes, **norm)
    config = config_for(image)
    assert (resolve(config).modalities, resolve(config).dims, resolve(config).pooling) == (("image",), (32,), "cls")
    assert encode(config, PHOTOS).shape == (3, 32)
    joint = tmp_path / "joint"
    save_tokenizer(joint, max_length=32)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = small | {"vocab_size": 32, "max_position_embeddings": 32, "eos_token_id": 3}
    save_model(
        joint,
        CLIPModel,
        CLIPConfig(text_config=text, vision_config=small | {"image_size": 28, "patch_size": 14}, projection_dim=24),
    )
    save_preprocessor(joint, image_processor_type="CLIPImageProcessor", **rule, **sizes, **norm)
    spec = resolve(config_for(joint))
    assert (set(spec.modalities), spec.dims, spec.family) == ({"image", "text"}, (24,), "clip")
    assert encode(config_for(joint), list(TEXTS)).shape == (4, 24)
    assert encode(config_for(joint), PHOTOS).shape == (3, 24)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("transformers", {}, r"encoder\.pooling is needed"),
        ("transformers", {"pooling": "cls", "dims": [64]}, "64 is more than the 32 dims"),
        ("transformers", {"pooling": "cls", "max_length": 999}, "takes at most 64 tokens"),
        ("sentence-transformers", {"pooling": "cls"}, "its own files"),
        ("e5-base-v2", {"pooling": "cls"}, "the registry"),
        ("served", {"dims": [8]}, "is not a setting of served"),
        ("transformers", {"path": "/", "pooling": "cls"}, "holds no model that transformers knows"),
        ("transformers", {"path": "hf://me/model@main", "pooling": "cls"}, "40 hex digits"),
    ],
)
def test_a_wrong_setting_is_refused_in_a_sentence(bert: Path, name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_space(config_for(bert, name, **settings))


def test_a_model_of_timm_gives_what_timm_gives(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from timm.data import create_transform, resolve_model_data_config

    torch.manual_seed(0)
    # Its vectors are wider than the `num_features` that its file states.
    made = timm.create_model("mobilenetv3_small_050", num_classes=7).eval()
    timm.models.save_for_hf(made, tmp_path)
    config = config_for(tmp_path, "timm", dims=[64])
    assert make_space(config).ladder.dims == (64, 1024)
    reference = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    transform = create_transform(**resolve_model_data_config(reference), is_training=False)
    pixels = torch.stack([transform(Image.open(io.BytesIO(photo)).convert("RGB")) for photo in PHOTOS])  # type: ignore[arg-type]
    with torch.no_grad():
        recipe = functional.normalize(reference(pixels)).numpy()
    assert (encode(config, PHOTOS) * recipe).sum(1).min() > 0.99999


def test_a_model_of_open_clip_gives_what_open_clip_gives(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 14, "image_size": 28}
    words = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    model_cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": words}
    norm = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": norm}))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**model_cfg).state_dict(), tmp_path / "open_clip_model.safetensors")
    config = config_for(tmp_path, "open_clip", prompts={"document": "a photo of "})
    assert make_space(config).ladder.dims == (24,)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    tokenise = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    pixels = torch.stack([transform(Image.open(io.BytesIO(photo)).convert("RGB")) for photo in PHOTOS])  # type: ignore[arg-type]
    with torch.no_grad():
        of_images = functional.normalize(model.eval().encode_image(pixels)).numpy()
        of_texts = functional.normalize(model.encode_text(tokenise(["a photo of " + text for text in TEXTS]))).numpy()
    assert (encode(config, PHOTOS) * of_images).sum(1).min() > 0.99999
    assert (encode(config, list(TEXTS)) * of_texts).sum(1).min() > 0.99999
