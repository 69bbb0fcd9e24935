"""What a funnel in RAM needs of its stages, whether FAISS holds them (`slices`) or torch (`torch_stages`).

Shapes: B queries, N vectors, K candidates, D full width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from pipelines.funnel.faiss_stages import Positions
from pipelines.vectors.arrays import Floats, Halves
from schemas.plans import Plan


class StageIndex(Protocol):
    """A plan's stages in RAM or on a device, filled with N vectors at positions 0 to N - 1.

    Any number of threads may search.
    """

    def __len__(self) -> int:
        """Return the number of vectors."""

    @property
    def holds_vectors(self) -> bool:
        """Whether the last stage, the full vectors, is held too."""

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that a vector takes over all stages held."""

    def search(self, plan: Plan, query_BD: Floats, k: int) -> tuple[Floats, Positions]:
        """Return true cosines and positions (B, ≤ k), best first; -inf and -1 where there are fewer."""

    def candidates(self, plan: Plan, query_BD: Floats, stages: int | None = None) -> tuple[Floats, Positions]:
        """Return the scores and positions (B, ≤ keep) that the first stages find, best first; -1 where there are fewer.

        Args:
            plan: The plan of these stages; its numbers to keep may differ.
            query_BD: float32 unit rows at full width.
            stages: How many stages to search; default: all but the last.
        """

    def ranked(self, plan: Plan, k: int) -> int:
        """Return how many full vectors `search` compares for one query; in partitions, the most."""

    def vectors(self, positions_K: Positions) -> Halves:
        """Gather full vectors (K, D)."""


Fill = Callable[[Iterator[Halves], int], StageIndex]
"""Makes filled stages of blocks of float16 unit rows (B, D) and their total number."""
