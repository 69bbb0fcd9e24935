"""Take prefixes of Matryoshka vectors. No other module slices a vector at a dim.

Owns `cut` (a prefix at unit length), `prefix` (a prefix as it is), `split` (the blocks between dims) and `unit`.
Owns no rule about which dims a space may be cut to: that is `schemas.columns.Ladder`.

Every function takes numpy and torch alike; torch is not imported for numpy input.

Shapes: B rows, D full width, M prefix width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")


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

    Example:
        >>> cut(np.array([[3.0, 4.0, 12.0]]), 2)
        array([[0.6, 0.8]])

    Source: Kusupati et al. 2022 (arXiv 2205.13147), section 4.3: prefixes are normalised independently.
    """
    return unit(prefix(x_BD, dim))


def prefix(x_BD: Array, dim: int) -> Array:
    """Return the first `dim` dims of each row as they are, not normalised: a view of shape (…, dim).

    Raises:
        ValueError: `dim` is outside 1…D.
    """
    if not 1 <= dim <= x_BD.shape[-1]:
        raise ValueError(f"cannot cut vectors of {x_BD.shape[-1]} dims to {dim}; allowed: 1 to {x_BD.shape[-1]}")
    return x_BD[..., :dim]


def split(x_BD: Array, dims: Sequence[int]) -> Iterator[Array]:
    """Yield the block of dims that each prefix adds to the one before it, not normalised.

    The blocks up to a dim, side by side, are the prefix of that dim.

    Args:
        x_BD: Vectors as rows.
        dims: Widths of the prefixes, ascending.
    """
    return (x_BD[..., start:end] for start, end in pairwise((0, *dims)))


def unit(x_BD: Array) -> Array:
    """Scale each row to unit length in float32; all-zero rows stay zero. Shape and dtype are kept."""
    if not isinstance(x_BD, np.ndarray):
        from torch.nn.functional import normalize

        return normalize(x_BD.float(), dim=-1).to(x_BD.dtype)
    x32 = x_BD.astype(np.float32)
    norm = np.linalg.norm(x32, axis=-1, keepdims=True)
    scaled: np.ndarray = (x32 / np.maximum(norm, np.finfo(np.float32).tiny)).astype(x_BD.dtype)
    return scaled
