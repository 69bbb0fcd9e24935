"""The arithmetic that a model runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch

from pipelines.encoders.spec import EncoderSpec, pick_dtype
from schemas.config import EncoderConfig


def torch_dtype(spec: EncoderSpec, config: EncoderConfig, device: torch.device) -> torch.dtype:
    """Return what `pick_dtype` picks, as torch names it."""
    return cast(torch.dtype, getattr(torch, pick_dtype(spec, config.dtype, has_gpu=device.type == "cuda")))


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return the context in which a float32 model runs in `dtype`; float32 needs none."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)
