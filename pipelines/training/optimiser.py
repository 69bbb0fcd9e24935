"""Optimiser, learning-rate schedule and precision of a run.

The learning rate is a function of the step, so that a checkpoint need not store it.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn

from schemas.config.training import OptimiserConfig, RunConfig
from schemas.errors import ConfigError


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a model's parameters; only those of two or more dimensions have weight decay."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return torch.optim.SGD(groups, config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, config.lr, betas=config.betas)


def lr_factor(config: OptimiserConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the factor of the learning rate at a step, counted from 0: warm-up, then the schedule."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1.0, epochs * steps_per_epoch - warmup)
    match config.schedule:
        case "cosine":
            return (1 + math.cos(math.pi * share)) / 2
        case "linear":
            return 1 - share
        case "step":
            passed: int = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
            return float(config.gamma**passed)
        case "constant":
            return 1.0


def pick_dtype(run: RunConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of a run's matrix products.

    Raises:
        ConfigError: float16 is asked of a CPU.
    """
    if run.precision == "auto":
        has_fast_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if has_fast_bf16 else torch.float32
    if run.precision == "float16" and device.type == "cpu":
        raise ConfigError("run.precision=float16 needs a GPU; allowed on a CPU: float32, bfloat16")
    return cast(torch.dtype, getattr(torch, run.precision))
