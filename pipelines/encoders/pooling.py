"""From token vectors to one unit row: pooling, and the steps that a model's rule asks for before a vector is stored.

Shapes: B rows, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipelines.encoders.spec import Pooling
from pipelines.vectors.matryoshka import unit
from schemas.columns import Step
from schemas.errors import EncoderError


def pool(hidden_BLD: torch.Tensor, mask_BL: torch.Tensor, how: Pooling) -> torch.Tensor:
    """Bring token vectors to one per row: their mean, the first, or the last before the padding on the right.

    Raises:
        EncoderError: `how` is left to the model's own modules, which are not at hand here.
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
            raise EncoderError("the entry in models.py must name a pooling: mean, cls or last")
        case _:
            assert_never(how)


def finish(pooled_BD: torch.Tensor, steps: Sequence[Step]) -> npt.NDArray[np.float32]:
    """Apply a model's steps in float32 and hand the unit rows over to numpy: (B, D) float32."""
    x_BD = pooled_BD.float()
    for step in steps:
        x_BD = functional.layer_norm(x_BD, x_BD.shape[-1:]) if step == "layer_norm" else unit(x_BD)
    return cast(npt.NDArray[np.float32], x_BD.cpu().numpy())
