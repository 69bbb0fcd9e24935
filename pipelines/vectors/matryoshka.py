"""Take prefixes of Matryoshka vectors. No other module slices a vector at a dim.

Owns `cut` (a prefix at unit length), `prefix` (a prefix as it is), `split` (the blocks between dims), `unit`, and
`are_unit`, the one rule for the length of a stored row.
Owns no rule about which dims a space may be cut to: that is `schemas.columns.Ladder`.

Every function takes numpy and torch alike; torch is not imported for numpy input.

Shapes: B rows, D full width, M prefix width.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.vectors.arrays import describe
from schemas.errors import DimError, InputError

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

UNIT_TOLERANCE = 2e-3
"""How far from 1 the length of a stored row may be: twice what rounding to half precision can do."""
_SURE_NORMS = (1e-15, 1e15)
"""Between these a norm in float32 loses nothing: no square that matters overflows or vanishes."""


def cut(x_BD: Array, dim: int) -> Array:
    """Return the first `dim` dims of each row, scaled to unit length.

    A row whose prefix is all zeros stays all zeros: it has no direction, and is at cosine 0 to everything.

    Args:
        x_BD: Vectors as rows, any float dtype, numpy or torch; any leading shape.
        dim: Width of the prefix, 1 ≤ dim ≤ D.

    Returns:
        (…, dim), the dtype and device of the input, unit rows.

    Raises:
        DimError: `dim` is no whole number from 1 to D.
        InputError: `x_BD` holds no floats.

    Example:
        >>> cut(np.array([[3.0, 4.0, 12.0]]), 2)
        array([[0.6, 0.8]])

    Source: Kusupati et al. 2022 (arXiv 2205.13147), section 4.3: prefixes are normalised independently.
    """
    return unit(prefix(x_BD, dim))


def prefix(x_BD: Array, dim: int) -> Array:
    """Return the first `dim` dims of each row as they are, not normalised: a view of shape (…, dim).

    Raises:
        DimError: `dim` is no whole number from 1 to D.
        InputError: `x_BD` holds no floats.
    """
    if not _are_floats(x_BD):
        raise InputError(f"pass vectors as rows of floats, of numpy or torch; {describe(x_BD)} has none")
    width = x_BD.shape[-1]
    if isinstance(dim, bool) or not isinstance(dim, Integral) or not 1 <= dim <= width:
        raise DimError(f"cannot cut vectors of {width} dims to {reprlib.repr(dim)}; allowed: 1 to {width}")
    return x_BD[..., :dim]


def _are_floats(x_BD: object) -> bool:
    if isinstance(x_BD, np.ndarray):
        return x_BD.ndim >= 1 and x_BD.dtype.kind == "f"
    torch = sys.modules.get("torch")  # who holds a tensor has imported it
    return torch is not None and isinstance(x_BD, torch.Tensor) and x_BD.ndim >= 1 and x_BD.is_floating_point()


def split(x_BD: Array, dims: Sequence[int]) -> Iterator[Array]:
    """Yield the block of dims that each prefix adds to the one before it, not normalised.

    The blocks up to a dim, side by side, are the prefix of that dim.

    Args:
        x_BD: Vectors as rows.
        dims: Widths of the prefixes, ascending.
    """
    return (x_BD[..., start:end] for start, end in pairwise((0, *dims)))


def unit(x_BD: Array) -> Array:
    """Scale each row to unit length, whatever its length; all-zero rows stay zero. Shape and dtype are kept.

    Lengths are exact over the whole range of the dtype: squares that would overflow or vanish are taken of a row that
    was divided by its largest number. A row with NaN or infinity becomes NaN.
    """
    return _unit_numpy(x_BD) if isinstance(x_BD, np.ndarray) else _unit_torch(x_BD)


def are_unit(x_BD: np.ndarray) -> npt.NDArray[np.bool_]:
    """Tell for each row whether it is of unit length within the rounding of half precision: (B,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths_B = np.linalg.norm(x_BD.astype(np.float32), axis=-1)
    is_unit_B: npt.NDArray[np.bool_] = np.abs(lengths_B - 1) <= UNIT_TOLERANCE
    return is_unit_B


def have_direction(x_BD: Array) -> Array:
    """Tell for each row whether it can be compared with others: finite, and not all zeros: (B,) booleans."""
    if not isinstance(x_BD, np.ndarray):
        squares = x_BD.float().square().sum(dim=-1)
        return squares.isfinite() & (squares > 0)
    with np.errstate(over="ignore", invalid="ignore"):
        squares_B = np.einsum("bd,bd->b", x_BD, x_BD, dtype=np.float32, casting="same_kind")
    has_direction_B: npt.NDArray[np.bool_] = np.isfinite(squares_B) & (squares_B > 0)
    return has_direction_B


def _unit_numpy(x_BD: np.ndarray) -> np.ndarray:
    x = x_BD if x_BD.dtype == np.float64 else x_BD.astype(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(x, axis=-1, keepdims=True)
        scaled: np.ndarray = x / norms
        is_sure = (norms > _SURE_NORMS[0]) & (norms < _SURE_NORMS[1])
        if not is_sure.all():
            rows = ~is_sure[..., 0]
            scaled[rows] = _unit_of_any_length(x[rows])
    return scaled.astype(x_BD.dtype, copy=False)


def _unit_of_any_length(x_BD: np.ndarray) -> np.ndarray:
    largest_B1 = np.abs(x_BD).max(axis=-1, keepdims=True).astype(np.float64)
    x64_BD = x_BD / np.where(largest_B1 == 0, 1, largest_B1)
    norms_B1 = np.linalg.norm(x64_BD, axis=-1, keepdims=True)
    unit_BD: np.ndarray = x64_BD / np.where(norms_B1 == 0, 1, norms_B1)
    return np.where(np.isfinite(largest_B1), unit_BD, np.nan)


def _unit_torch(x_BD: torch.Tensor) -> torch.Tensor:
    # Without a branch on the values, so that a GPU is not waited for. Double precision is only used where it is given.
    x = x_BD if x_BD.element_size() == 8 else x_BD.float()
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    within = x / largest.masked_fill(largest == 0, 1)
    norms = within.norm(dim=-1, keepdim=True)
    scaled: torch.Tensor = (within / norms.masked_fill(norms == 0, 1)).to(x_BD.dtype)
    return scaled
