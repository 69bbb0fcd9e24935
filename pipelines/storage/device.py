"""The one choice of the device that arithmetic runs on."""

from __future__ import annotations

import torch

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


def to_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a batch to the device; to a GPU from pinned memory, without waiting for the copy."""
    if device.type != "cuda":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)
