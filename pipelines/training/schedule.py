"""The optimiser, and how its learning rate goes: a function of the step, so that nothing of it need be saved."""

from __future__ import annotations

import math

import torch
from torch import nn

from schemas.config.training import OptimiserConfig


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a model's parameters; decay is for those of two dimensions or more."""
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
    """Return what the learning rate is multiplied by at a step (from 0): up in the warm-up, then down."""
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
