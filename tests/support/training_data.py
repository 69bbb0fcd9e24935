"""Tiny shards and folders of pictures, captions and texts, and configs that train on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipelines.training.batches import make_data
from pipelines.training.samples import survey
from schemas.config.training import TrainConfig

Batches = list[tuple[torch.Tensor, ...]]


def config_for(kind: str = "classify", **data: Any) -> TrainConfig:
    """Return a config of small models; `data` is its data block."""
    return TrainConfig.model_validate(
        {
            "kind": kind,
            "out": "unused",
            "model": {"image": "resnet-small", "text": "bert-tiny", "width": 8, "pixels": 24, "vocabulary": 300},
            "data": {"augment": False, "shuffle_rows": 5} | data,
            "loss": {"dims": [2, 8]},
            "run": {"batch": 6},
        }
    )


def of_tars(root: Path, **data: Any) -> TrainConfig:
    """Return the config of shards that `write_tars` wrote."""
    return config_for(train=f"{root}/*.tar", input={"image": "png"}, label="cls", **data)


def batches(config: TrainConfig, epoch: int = 0, first: int = 0, *, is_valid: bool = False) -> Batches:
    """Read the batches of an epoch, from a step on."""
    return list(make_data(config, survey(config), is_valid=is_valid).batches(epoch, first, config.run.batch))


def are_same(a: Batches, b: Batches) -> bool:
    """Return whether two lists of batches are equal."""
    return len(a) == len(b) and all(all(map(torch.equal, x, y)) for x, y in zip(a, b, strict=True))
