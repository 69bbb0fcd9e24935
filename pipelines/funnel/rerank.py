"""Ranking candidates by their full vectors, wherever these are: what every funnel ends in.

Shapes: B queries, K candidates, D full width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipelines.funnel.faiss_stages import Floats, Halves, Positions
from pipelines.vectors.matryoshka import unit

Vectors = Callable[[Positions], Halves]

_GATHERED = 65_536


def rerank(query_BD: Floats, candidates_B: Sequence[Positions], vectors: Vectors, k: int) -> tuple[Floats, Positions]:
    """Return the true cosines and positions (B, k) of each query's best candidates.

    Each vector is asked for once for many queries.

    Args:
        query_BD: float32 unit rows.
        candidates_B: Positions to choose among, a query; no position twice.
        vectors: Gives the vectors (K, D) at positions.
        k: How many to return; -inf and -1 where there are fewer.
    """
    scores_BK = np.full((len(query_BD), k), -np.inf, np.float32)
    positions_BK = np.full((len(query_BD), k), -1, np.int64)
    for some in _together(candidates_B):
        wanted_U = np.unique(np.concatenate([candidates_B[row] for row in some]))
        x_UD = unit(vectors(wanted_U).astype(np.float32))
        for row in some:
            scores = x_UD[np.searchsorted(wanted_U, candidates_B[row])] @ query_BD[row]
            best = np.argsort(-scores, kind="stable")[:k]
            scores_BK[row, : len(best)], positions_BK[row, : len(best)] = scores[best], candidates_B[row][best]
    return scores_BK, positions_BK


def _together(candidates_B: Sequence[Positions]) -> Iterator[range]:
    """Yield runs of queries whose candidates are gathered at once."""
    start = count = 0
    for row, candidates in enumerate(candidates_B):
        if count and count + len(candidates) > _GATHERED:
            yield range(start, row)
            start, count = row, 0
        count += len(candidates)
    if start < len(candidates_B):
        yield range(start, len(candidates_B))
