"""Whole models trained here: a saved model gives the features of the trained one, at the dims of its ladder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from pipelines.encoders import BadSample, encode_query, load_encoder, load_preparer, make_space
from pipelines.encoders.checkpoints import read_model_file
from pipelines.training.samples import Survey
from pipelines.training.tasks import ImageClassifier, features, logits_by_dim
from pipelines.training.tokenizer import to_ids, train_tokenizer
from pipelines.training.train_model import ModelTask, describe_model, make_task, save_task
from schemas.config import EncoderConfig, LimitsConfig, TrustConfig
from schemas.config.training import LossConfig, ModelConfig, TrainConfig
from schemas.errors import ConfigError, DimNotInLadder, InputError, SpaceMismatch
from tests.support.tiny_training import picture, shrink

TEXTS = ["a red square", "a blue square of stone", "owls sleep by the river at noon"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def saved(folder: Path, kind: str, *, dims: tuple[int, ...] = (4, 16), **model: Any) -> EncoderConfig:
    config = TrainConfig.model_validate(
        {
            "kind": kind,
            "out": str(folder),
            "model": {"pixels": 32, "max_length": 12} | model,
            "data": {"train": "x", "input": {"image": "png"}, "label": "cls", "caption": "txt"}
            | ({"input": {"text": "t"}} if kind == "mlm" else {}),
            "loss": {"dims": dims},
        }
    )
    tokenizer = train_tokenizer(TEXTS * 5, 300).to_str()
    known = Survey(10, ("blue", "green", "red"), "" if kind == "classify" else tokenizer)
    file = describe_model(config, known)
    torch.manual_seed(0)
    save_task(folder, file, make_task(file), known.tokenizer)
    return EncoderConfig(name="matryoshka-model", path=str(folder), device="cpu")


def trusting(config: EncoderConfig) -> TrustConfig:
    return TrustConfig(encoder_path=config.path)


def load_task(folder: Path) -> ModelTask:
    task = make_task(read_model_file(folder))
    task.load_state_dict(load_file(folder / "model.safetensors"))
    return task.eval()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet-small", "vit-s16"])
def test_an_image_classifier_embeds_pictures_up_to_its_ladder_s_end(tmp_path: Path, backbone: str) -> None:
    config = saved(tmp_path / "m", "classify", image=backbone, dims=(4, 12))
    space = make_space(config)
    assert space.ladder.dims == (4, 12)
    model = load_task(tmp_path / "m")
    assert isinstance(model, ImageClassifier)
    preparer = load_preparer(config, LimitsConfig())
    pixels = preparer.prepare([picture("red", 1, 50)])[0]
    assert not isinstance(pixels, BadSample)
    wanted = features(model, np.asarray(pixels, np.uint8)[None])[0]
    found = encode_query(space, picture("red", 1, 50), trusting(config))
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)
    assert space.ladder.check(4) == 4
    with pytest.raises(DimNotInLadder):
        space.ladder.check(8)


def test_two_towers_share_a_space(tmp_path: Path) -> None:
    config = saved(tmp_path / "m", "pairs", image="resnet18", text="bert-tiny", width=16)
    space = make_space(config)
    words, pixels = (encode_query(space, query, trusting(config)) for query in ("a red square", picture("red", 1)))
    assert words.shape == pixels.shape == (16,)
    np.testing.assert_allclose([np.linalg.norm(words), np.linalg.norm(pixels)], 1, atol=1e-5)


def test_texts_of_any_lengths_embed_as_they_do_alone(tmp_path: Path) -> None:
    config = saved(tmp_path / "m", "mlm", text="bert-tiny")
    preparer, encoder = load_preparer(config, LimitsConfig()), load_encoder(config)
    prepared = preparer.prepare([*TEXTS, "stone " * 40])
    together = encoder.encode(prepared)  # type: ignore[arg-type]
    alone = np.concatenate([encoder.encode([one]) for one in prepared])  # type: ignore[list-item]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert [len(one) for one in prepared][-1] == 12  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    ids, _ = to_ids(tokenizer, TEXTS[:1], 12)
    assert ids[0].tolist() == list(prepared[0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes text inputs"):
        encoder_of_picture(config)


def encoder_of_picture(config: EncoderConfig) -> None:
    load_preparer(config, LimitsConfig()).prepare([picture("red", 1)])


def test_other_weights_are_another_space(tmp_path: Path) -> None:
    config = saved(tmp_path / "m", "classify", image="resnet18")
    space = make_space(config)
    task = load_task(tmp_path / "m")
    with torch.no_grad():
        next(task.parameters()).add_(1)
    save_task(tmp_path / "m", read_model_file(tmp_path / "m"), task)
    assert make_space(config).fingerprint != space.fingerprint
    with pytest.raises(SpaceMismatch):
        encode_query(space, picture("red", 1), trusting(config))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.json of a trained model cannot be read"):
        make_space(EncoderConfig(name="matryoshka-model", path=str(tmp_path)))


def test_logits_come_for_every_dim_and_one_dim_is_a_fixed_feature_model() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    model = ImageClassifier(ModelConfig(image="resnet-small", channels=1), LossConfig(dims=(4, 8)), 3)
    assert logits_by_dim(model, images, batch=2).shape == (2, 5, 3)
    assert features(model, images, batch=2).shape == (5, 8)
    fixed = ImageClassifier(ModelConfig(image="resnet-small", channels=1), LossConfig(dims=(8,)), 3)
    assert len(fixed.loss.heads.heads) == 1
    assert features(fixed, images).shape == (5, 8)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="ends at 64, but the model gives 16"):
        ImageClassifier(ModelConfig(image="resnet18"), LossConfig(dims=(8, 64)), 3)
