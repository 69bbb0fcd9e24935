"""Towers of whole models: grey images, sizes that do not fit, a missing library."""

from __future__ import annotations

import pytest
import torch

from pipelines.encoders.towers import ImageTower, tower_image_rule
from schemas.config.training import ModelConfig
from schemas.errors import ConfigError, DependencyMissing


def test_a_model_of_grey_pictures_takes_colour_as_well() -> None:
    tower = ImageTower(ModelConfig(image="resnet-small", pixels=28, channels=1)).eval()
    grey = torch.randint(0, 256, (2, 28, 28, 1), dtype=torch.uint8)
    torch.testing.assert_close(tower(grey), tower(grey.repeat(1, 1, 1, 3)), atol=1e-4, rtol=1e-4)


def test_an_image_must_divide_into_patches() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        ImageTower(ModelConfig(image="vit-b16", pixels=30))


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(DependencyMissing, match=r"matryoshka-lake\[train\]"):
        ImageTower(ModelConfig(image="resnet18"))


def test_tiny_images_are_taken_whole_and_others_at_seven_eighths() -> None:
    assert tower_image_rule(28).short == 28
    assert tower_image_rule(224).short == 256
