"""What is measured side by side: a system gives vectors at each of its dims, whether it cuts them or was made there.

Owns nested systems and fixed ones; baselines are in `baselines.py`.

Shapes: N database rows, Q queries, D full width, M prefix width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipelines.vectors.matryoshka import cut

Floats = npt.NDArray[np.float32]
Sides = tuple[Floats, Floats]
"""Database (N, M) and queries (Q, M)."""


@dataclass(frozen=True, eq=False)
class System:
    """Vectors at several dims under one name.

    Attributes:
        name: What it is called in tables.
        dims: Where it is measured, ascending.
        made_for: Those of them that it was trained or fitted for; the others are between or below.
        at: Unit rows of both sides at a dim.
        is_baseline: Whether it is there for comparison only.
    """

    name: str
    dims: tuple[int, ...]
    made_for: frozenset[int]
    at: Callable[[int], Sides]
    is_baseline: bool = False

    @property
    def width(self) -> int:
        """The largest of its dims."""
        return self.dims[-1]


def nested(
    name: str, sides: Sides, dims: Sequence[int], made_for: Sequence[int] | None = None, *, is_baseline: bool = False
) -> System:
    """Return a system whose every dim is a prefix of the same vectors.

    Args:
        name: What it is called.
        sides: Database (N, D) and queries (Q, D), of any lengths.
        dims: Where it is measured; at most D.
        made_for: Those it was trained for; None is all of them.
        is_baseline: Whether it is there for comparison only.
    """

    def at(dim: int) -> Sides:
        return cut(sides[0], dim), cut(sides[1], dim)

    chosen = tuple(sorted(set(dims)))
    return System(name, chosen, frozenset(chosen if made_for is None else made_for), at, is_baseline)


def fixed(name: str, by_dim: Mapping[int, Callable[[], Sides]]) -> System:
    """Return a system of independently trained models, one per dim; each is read when it is asked for."""

    def at(dim: int) -> Sides:
        database_NM, queries_QM = by_dim[dim]()
        return cut(database_NM, dim), cut(queries_QM, dim)

    return System(name, tuple(sorted(by_dim)), frozenset(by_dim), at)


def between(dims: Sequence[int]) -> tuple[int, ...]:
    """Return the dims half-way between neighbouring rungs, where there is a whole number between them."""
    return tuple((low + high) // 2 for low, high in pairwise(sorted(dims)) if high - low > 1)
