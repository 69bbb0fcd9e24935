"""Folders of models trained here: what does not fit together is not saved, what is no model is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.encoders.checkpoints import Layer, apply_layers, read_head, read_layers, read_model_file, save_head
from schemas.checkpoints import FrozenTower, HeadFile
from schemas.errors import ConfigError, EncoderError

TOWER = FrozenTower(name="wordllama", space="0" * 16)


def layer(wide: int, out: int) -> Layer:
    return Layer(torch.arange(wide * out).reshape(out, wide).float(), torch.ones(out))


def test_a_head_is_read_as_it_was_saved(tmp_path: Path) -> None:
    head = HeadFile(dims=(2, 4), towers={"text": TOWER})
    save_head(tmp_path / "head", head, {"text": [layer(6, 5), layer(5, 4)]})
    assert read_head(tmp_path / "head") == head
    layers = read_layers(tmp_path / "head", "text")
    assert torch.equal(layers[1].weight, layer(5, 4).weight)
    assert apply_layers(torch.ones(3, 6), layers).shape == (3, 4)


def test_what_does_not_fit_together_is_not_saved(tmp_path: Path) -> None:
    head = HeadFile(dims=(4, 8), towers={"text": TOWER})
    with pytest.raises(EncoderError, match="ladder ends at 8"):
        save_head(tmp_path, head, {"text": [layer(32, 16)]})
    with pytest.raises(EncoderError, match="towers"):
        save_head(tmp_path, head, {"image": [layer(32, 8)]})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"head\.json of a Matryoshka head cannot be read"):
        read_head(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.json of a trained model cannot be read"):
        read_model_file(tmp_path)
