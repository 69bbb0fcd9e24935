"""What every way of holding a plan's stages in memory answers to: FAISS on cores (`slices`), torch on a device."""

from __future__ import annotations

from typing import Protocol

from pipelines.funnel.faiss_stages import Floats, Halves, Positions
from schemas.plans import Plan


class StageIndex(Protocol):
    """A plan's stages, filled with N vectors at positions 0 to N - 1. Any number of threads may search.

    Shapes: B queries, D full width, K candidates.
    """

    def __len__(self) -> int:
        """Return the number of vectors."""

    @property
    def holds_vectors(self) -> bool:
        """Whether the last stage, the full vectors, is held as well."""

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that a vector takes over all stages held."""

    def search(self, plan: Plan, query_BD: Floats, k: int) -> tuple[Floats, Positions]:
        """Return true cosines and positions (B, ≤ k), best first; -inf and -1 where there are fewer."""

    def candidates(self, plan: Plan, query_BD: Floats, stages: int | None = None) -> Positions:
        """Return the positions (B, ≤ keep) that the first stages find, best first; -1 where there are fewer.

        Args:
            plan: Whose stages, with any numbers to keep.
            query_BD: float32 unit rows at full width.
            stages: How many; default is all but the last.
        """

    def vectors(self, positions_K: Positions) -> Halves:
        """Gather full vectors (K, D)."""
