"""Schedules, weight decay and precision are those of the config."""

from __future__ import annotations

import pytest
import torch

from pipelines.training.optimiser import lr_factor, make_optimiser, pick_dtype
from schemas.config.training import OptimiserConfig, RunConfig
from schemas.errors import ConfigError
from tests.support.tiny_training import perceptron


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("cosine", {0: 1 / 11, 9: 10 / 11, 10: 1.0, 55: 0.5, 99: 0.0003}),
        ("linear", {10: 1.0, 55: 0.5, 99: 1 / 90}),
        ("step", {10: 1.0, 39: 1.0, 40: 0.1, 80: 0.01}),
        ("constant", {10: 1.0, 99: 1.0}),
    ],
)
def test_the_rate_rises_and_falls_as_told(schedule: str, at: dict[int, float]) -> None:
    config = OptimiserConfig.model_validate({"schedule": schedule, "warmup_epochs": 1, "milestones": [4, 8]})
    for step, factor in at.items():
        assert lr_factor(config, step, 10, 10) == pytest.approx(factor, abs=1e-3), step


def test_biases_are_not_decayed() -> None:
    task = perceptron()
    decayed, free = make_optimiser(task, OptimiserConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert sum(p.numel() for g in (decayed, free) for p in g["params"]) == sum(p.numel() for p in task.parameters())


def test_precision_is_what_the_device_can_do() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype(RunConfig(precision="bfloat16"), cpu) == torch.bfloat16
    assert pick_dtype(RunConfig(), cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="needs a GPU"):
        pick_dtype(RunConfig(precision="float16"), cpu)
