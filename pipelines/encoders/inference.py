"""The forward pass that families share: its dtype, pooling, and the steps from a pooled vector to a unit row.

Owns no model. Slicing to a prefix is in `pipelines.vectors.matryoshka`.

Shapes: B rows, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import assert_never, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipelines.encoders.spec import EncoderSpec, Pooling, pick_dtype
from pipelines.vectors.matryoshka import unit
from schemas.columns import Step
from schemas.config import EncoderConfig
from schemas.errors import EncoderError


def torch_dtype(spec: EncoderSpec, config: EncoderConfig, device: torch.device) -> torch.dtype:
    """Return the dtype that a model runs in on a device.

    Raises:
        ConfigError: The model must not run in the configured dtype.
    """
    return cast(torch.dtype, getattr(torch, pick_dtype(spec, config.dtype, has_gpu=device.type == "cuda")))


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context in which a float32 model runs in `dtype`; float32 needs none."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def pool(hidden_BLD: torch.Tensor, mask_BL: torch.Tensor, how: Pooling) -> torch.Tensor:
    """Pool token vectors to one per row, (B, D): their mean, the first, or the last one before the padding.

    Raises:
        EncoderError: `how` is `model`: the model's own modules pool, so a caller of this function must name another.
    """
    match how:
        case "mean":
            weight_BL1 = mask_BL.unsqueeze(-1).to(hidden_BLD.dtype)
            return (hidden_BLD * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=1e-9)
        case "cls":
            return hidden_BLD[:, 0]
        case "last":
            return hidden_BLD[torch.arange(len(hidden_BLD), device=hidden_BLD.device), mask_BL.sum(1) - 1]
        case "model":
            raise EncoderError("the entry in pipelines/encoders/catalogue.py must name a pooling: mean, cls or last")
        case _:
            assert_never(how)


def apply_steps(pooled_BD: torch.Tensor, steps: Sequence[Step]) -> npt.NDArray[np.float32]:
    """Apply a model's steps in float32 to pooled vectors: (B, D) float32 unit rows in numpy."""
    x_BD = pooled_BD.float()
    for step in steps:
        x_BD = functional.layer_norm(x_BD, x_BD.shape[-1:]) if step == "layer_norm" else unit(x_BD)
    return cast(npt.NDArray[np.float32], x_BD.cpu().numpy())
