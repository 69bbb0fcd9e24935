"""Where a model runs and in what arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch

from pipelines.encoders.spec import EncoderSpec, pick_dtype
from schemas.config import EncoderConfig
from schemas.errors import ConfigError


def pick_device(config: EncoderConfig) -> torch.device:
    """Return CUDA where there is a GPU and `device` allows it, else the CPU.

    Raises:
        ConfigError: `device = "cuda"` and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("encoder.device=cuda, but torch sees no GPU here; use --set encoder.device=auto")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


def torch_dtype(spec: EncoderSpec, config: EncoderConfig, device: torch.device) -> torch.dtype:
    """Return what `pick_dtype` picks, as torch names it."""
    return cast(torch.dtype, getattr(torch, pick_dtype(spec, config.dtype, has_gpu=device.type == "cuda")))


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return the context in which a float32 model runs in `dtype`; float32 needs none."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def to_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a batch to the device; to a GPU from pinned memory, without waiting for the copy."""
    if device.type != "cuda":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)
