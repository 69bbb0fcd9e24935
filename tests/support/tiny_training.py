"""Models and data of a few seconds: they count for the rule, not for the numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipelines.training.losses import ClassLoss, Losses
from tests.support.shard_files import tar_bytes

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


class Perceptron(nn.Module):
    """Vectors to classes through one hidden layer with dropout: a task as the loop sees it."""

    metric = "top-1"

    def __init__(self, width: int = 6, dims: Sequence[int] = (2, 4, 8), classes: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.body = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, self.dims[-1]))
        self.loss = ClassLoss(self.dims, classes)

    def forward(self, x_BT: torch.Tensor, labels_B: torch.Tensor) -> Losses:
        losses: Losses = self.loss(self.body(x_BT), labels_B)
        return losses

    def count_correct(self, x_BT: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, int]:
        logits = self.loss.heads(self.body(x_BT))
        return torch.stack([(one.argmax(1) == labels_B).sum() for one in logits]), len(labels_B)


def perceptron(seed: int = 0, dropout: float = 0.2) -> Perceptron:
    torch.manual_seed(seed)
    return Perceptron(dropout=dropout)


def clusters(rows: int = 60, width: int = 6, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows around as many centres as there are classes, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(rows) % classes
    centres = torch.randn(classes, width, generator=generator) * 2
    return centres[labels_N] + torch.randn(rows, width, generator=generator) * 0.3, labels_N


def picture(colour: str, seed: int, size: int = 40, format: str = "PNG") -> bytes:
    """A noisy square of one colour."""
    noise = np.random.default_rng(seed).integers(-30, 30, (size, size, 3))
    pixels = (np.asarray(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def write_folder(root: Path, each: int = 8) -> Path:
    """A folder with a subfolder of pictures per colour."""
    for number, colour in enumerate(COLOURS):
        (root / colour).mkdir(parents=True)
        for i in range(each):
            (root / colour / f"{i}.png").write_bytes(picture(colour, 100 * number + i))
    return root


def write_tars(root: Path, shards: int = 2, each: int = 12, bad: int = 0) -> Path:
    """WebDataset shards of `png`, `cls` and `txt`; the first `bad` pictures of each are none."""
    root.mkdir(parents=True)
    names = list(COLOURS)
    for shard in range(shards):
        members = []
        for i in range(each):
            colour, key = names[i % 3], f"{shard}-{i:03d}"
            data = b"not a picture" if i < bad else picture(colour, 100 * shard + i)
            words = f"a {colour} square, number {i}"
            said = json.dumps({"cls": i % 3, "txt": words}).encode()
            members += [(f"{key}.png", data), (f"{key}.json", said)]
        (root / f"{shard:03d}.tar").write_bytes(tar_bytes(members))
    return root


@pytest.fixture
def small_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones and transformers of a few thousand weights under the names of the large ones."""
    shrink(monkeypatch)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.encoders import towers

    resnet: dict[str, Any] = {"layer_type": "basic", "depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8}
    vit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16}
    bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for sizes, small in ((towers.RESNETS, resnet), (towers.VITS, vit), (towers.BERTS, bert)):
        for name in sizes:
            monkeypatch.setitem(sizes, name, small)
