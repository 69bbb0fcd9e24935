"""Systems to compare: each gives vectors of the database and of the queries at each of its dims.

Owns nested systems (prefixes of the same vectors), fixed ones (a model for each dim), and baselines made of full
vectors.

Shapes: N database rows, Q queries, D full width, M prefix width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipelines.vectors.matryoshka import cut
from pipelines.vectors.rotation import fit_pca

Baseline = Literal["truncation", "pca", "random-columns", "random-projection"]
Floats = npt.NDArray[np.float32]
Sides = tuple[Floats, Floats]
"""Database (N, M) and queries (Q, M)."""


@dataclass(frozen=True, eq=False)
class System:
    """Vectors at several dims under one name.

    Attributes:
        name: Name in tables and plots.
        dims: Dims at which it is measured, ascending.
        made_for: Those of them that it was trained or fitted for. The others lie between or below.
        at: Returns the unit rows of both sides at a dim.
        is_baseline: Whether it is a baseline, drawn as a dashed line.
        documents_N: The number of each database row's document, where rows are passages that are judged by document;
            None where each row is judged by itself.
    """

    name: str
    dims: tuple[int, ...]
    made_for: frozenset[int]
    at: Callable[[int], Sides]
    is_baseline: bool = False
    documents_N: npt.NDArray[np.int64] | None = None

    @property
    def width(self) -> int:
        """The largest of its dims."""
        return self.dims[-1]


def nested(
    name: str, sides: Sides, dims: Sequence[int], made_for: Sequence[int] | None = None, *, is_baseline: bool = False
) -> System:
    """Return a system whose every dim is a prefix of the same vectors.

    Args:
        name: Name of the system.
        sides: Database (N, D) and queries (Q, D), of any lengths.
        dims: Dims at which it is measured; at most D.
        made_for: The dims it was trained for; None is all of them.
        is_baseline: Whether it is a baseline.
    """

    def at(dim: int) -> Sides:
        return cut(sides[0], dim), cut(sides[1], dim)

    chosen = tuple(sorted(set(dims)))
    return System(name, chosen, frozenset(chosen if made_for is None else made_for), at, is_baseline)


def fixed(name: str, by_dim: Mapping[int, Callable[[], Sides]]) -> System:
    """Return a system of independently trained models, one per dim; each is read when its dim is asked for."""

    def at(dim: int) -> Sides:
        database_NM, queries_QM = by_dim[dim]()
        return cut(database_NM, dim), cut(queries_QM, dim)

    return System(name, tuple(sorted(by_dim)), frozenset(by_dim), at)


def between(dims: Sequence[int]) -> tuple[int, ...]:
    """Return the dims halfway between neighbouring rungs, where there is a whole number between them."""
    return tuple((low + high) // 2 for low, high in pairwise(sorted(dims)) if high - low > 1)


def make_baseline(kind: Baseline, of: str, sides: Sides, dims: Sequence[int], seed: int = 0) -> System:
    """Return a baseline made of full vectors.

    All but `truncation` are orthonormal maps whose prefixes are cut; at full width they change no similarity.

    Args:
        kind: `truncation` cuts the vectors as they are; `pca` rotates them to the principal axes of the database;
            `random-columns` shuffles the dims; `random-projection` rotates them at random.
        of: Name of the system that the vectors belong to.
        sides: Database (N, D) and queries (Q, D).
        dims: Dims at which it is measured.
        seed: Seed of the random maps.
    """
    width = sides[0].shape[1]
    rng = np.random.default_rng(seed)
    if kind == "truncation":
        return nested(f"{of} truncated", sides, dims, (width,), is_baseline=True)
    if kind == "pca":
        matrix_DD = fit_pca([sides[0]]).matrix_DD
    elif kind == "random-columns":
        matrix_DD = np.eye(width, dtype=np.float32)[rng.permutation(width)]
    else:
        matrix_DD = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    rotated = (sides[0] @ matrix_DD.T, sides[1] @ matrix_DD.T)
    made_for = dims if kind == "pca" else ()
    return nested(f"{of} {kind}", rotated, dims, made_for, is_baseline=True)
