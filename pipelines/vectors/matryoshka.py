"""Cutting vectors to a prefix: slice, then normalise. The only place that slices a vector.

Shapes: B rows, D full width, M prefix width.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def cut(x_BD: Array, dim: int) -> Array:
    """Return the first `dim` dims of each row, scaled to unit length.

    A row whose prefix is all zeros stays all zeros: it has no direction, and is at cosine 0 to everything.

    Args:
        x_BD: Vectors as rows, any float dtype, numpy or torch; any leading shape.
        dim: Width of the prefix, 1 ≤ dim ≤ D.

    Returns:
        (…, dim), the dtype and device of the input, unit rows. Norms are taken in float32.

    Raises:
        ValueError: `dim` is outside 1…D.

    Source: Kusupati et al. 2022 (arXiv 2205.13147), section 4.3: prefixes are normalised independently.
    """
    if not 1 <= dim <= x_BD.shape[-1]:
        raise ValueError(f"cannot cut vectors of {x_BD.shape[-1]} dims to {dim}; allowed: 1 to {x_BD.shape[-1]}")
    return unit(x_BD[..., :dim])


def unit(x_BD: Array) -> Array:
    """Scale each row to unit length in float32; all-zero rows stay zero. Shape and dtype are kept."""
    if isinstance(x_BD, torch.Tensor):
        return torch.nn.functional.normalize(x_BD.float(), dim=-1).to(x_BD.dtype)
    x32 = x_BD.astype(np.float32)
    norm = np.linalg.norm(x32, axis=-1, keepdims=True)
    scaled: np.ndarray = (x32 / np.maximum(norm, np.finfo(np.float32).tiny)).astype(x_BD.dtype)
    return scaled
