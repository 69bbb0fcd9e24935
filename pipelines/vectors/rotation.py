"""Orthonormal rotations: they make the prefixes of an encoder that is not Matryoshka-trained useful.

A rotation changes no full-width score. It sorts the dims by variance, so a prefix keeps as much of the vectors as any
linear map to that many dims can. Owns the PCA fit; owns no storage (`tables/rotations.py`). Shapes: B rows, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipelines.vectors.arrays import Floats
from pipelines.vectors.matryoshka import have_direction
from schemas.columns import Ladder


@dataclass(frozen=True, eq=False)
class Rotation:
    """An orthonormal matrix, and the share of the variance in each of its output dims.

    Attributes:
        matrix_DD: float32, rows are output dims in descending order of variance.
        explained_D: float32, share of the variance per output dim; sums to 1.
    """

    matrix_DD: Floats
    explained_D: Floats

    def apply(self, x_BD: Floats) -> Floats:
        """Rotate rows (B, D); lengths and angles change by float error only."""
        return x_BD @ self.matrix_DD.T

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the matrix, 16 hex digits."""
        return hashlib.sha256(np.ascontiguousarray(self.matrix_DD).tobytes()).hexdigest()[:16]

    @property
    def ladder(self) -> Ladder:
        """The ladder of vectors after the rotation."""
        return rotated_ladder(len(self.matrix_DD))


def rotated_ladder(width: int) -> Ladder:
    """Return the ladder of rotated vectors of a width: powers of two from 8 up to it, and the width."""
    return Ladder(dims=(*(1 << p for p in range(3, width.bit_length()) if 1 << p < width), width))


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows from which a PCA is fitted, in O(D²) memory. The sums of two parts add up to those of the whole.

    Attributes:
        count: Rows seen.
        total_D: float64, their sum.
        moment_DD: float64, the sum of their outer products.
        lost: Rows that are in no sum, since they have no direction (all zeros, NaN or infinity).

    Source: Pearson 1901; sums over disjoint parts add.
    """

    count: int
    total_D: npt.NDArray[np.float64]
    moment_DD: npt.NDArray[np.float64]
    lost: int = 0

    @classmethod
    def of(cls, blocks: Iterable[npt.NDArray[np.floating]]) -> Moments:
        """Sum over blocks of rows (B, D) of any float dtype, one pass.

        Raises:
            ValueError: There is no block.
        """
        count, lost, total_D, moment_DD = 0, 0, None, None
        for block in blocks:
            usable_B = have_direction(block)
            lost += len(block) - int(usable_B.sum())
            x_BD = (block if usable_B.all() else block[usable_B]).astype(np.float64)
            if total_D is None or moment_DD is None:
                total_D, moment_DD = np.zeros(x_BD.shape[1]), np.zeros((x_BD.shape[1],) * 2)
            count += len(x_BD)
            total_D += x_BD.sum(axis=0)
            moment_DD += x_BD.T @ x_BD
        if total_D is None or moment_DD is None:
            raise ValueError("a rotation cannot be fitted on no vectors")
        return cls(count, total_D, moment_DD, lost)

    def __add__(self, other: Moments) -> Moments:
        sums = (self.total_D + other.total_D, self.moment_DD + other.moment_DD)
        return Moments(self.count + other.count, *sums, self.lost + other.lost)

    def rotation(self) -> Rotation:
        """Return the rotation to the principal axes.

        The covariance is centred to find the axes, but the mean is not subtracted when the rotation is applied:
        subtracting it would change the cosines at full width.

        Raises:
            ValueError: No rows were seen.
        """
        if not self.count:
            raise ValueError("a rotation cannot be fitted on no vectors")
        mean_D = self.total_D / self.count
        values_D, vectors_DD = np.linalg.eigh(self.moment_DD / self.count - np.outer(mean_D, mean_D))
        values_D = values_D.clip(0)[::-1]
        matrix_DD = np.ascontiguousarray(vectors_DD.T[::-1])
        # An eigenvector's sign is arbitrary; fix it, so that the same vectors give the same rotation.
        largest_D = np.take_along_axis(matrix_DD, np.abs(matrix_DD).argmax(axis=1, keepdims=True), axis=1)
        matrix_DD *= np.sign(largest_D)
        return Rotation(matrix_DD.astype(np.float32), (values_D / max(values_D.sum(), 1e-30)).astype(np.float32))


def fit_pca(blocks: Iterable[npt.NDArray[np.floating]]) -> Rotation:
    """Fit a PCA rotation by one exact pass over blocks of rows (B, D) of any float dtype.

    Raises:
        ValueError: There are no rows.
    """
    return Moments.of(blocks).rotation()
