"""What the exact search finds, and how far down a list of candidates: what every recall is measured against.

Owns the comparison; the exact search is the shortlists'. Shapes: Q queries, B rows of a block, D width, K candidates,
T true neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.shortlist.exact import ExactSearch

_TIES = 16
_SAME_SCORE = 1e-6


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Exact neighbours of Q queries.

    Attributes:
        k: Neighbours asked for.
        ids_QT: int64 ids, best first: the k best and a few more, so that ties at the k-th place are known.
        counts_Q: How many of them are as good as the k-th.
    """

    k: int
    ids_QT: npt.NDArray[np.int64]
    counts_Q: npt.NDArray[np.int64]

    def ranks(self, candidates_QK: npt.NDArray[np.int64], queries: slice = slice(None)) -> npt.NDArray[np.int64]:
        """Return (Q, T): at which place of its candidates each true neighbour stands; K where it is not among them.

        Args:
            candidates_QK: Ids, best first.
            queries: Which queries these are the candidates of.
        """
        missing = candidates_QK.shape[1]
        ids_QT, counts_Q = self.ids_QT[queries], self.counts_Q[queries]
        ranks_QT = np.full(ids_QT.shape, missing, np.int64)
        for query, (ids_T, found_K, count) in enumerate(zip(ids_QT, candidates_QK, counts_Q, strict=True)):
            place = {identity: rank for rank, identity in enumerate(found_K.tolist())}
            ranks_QT[query, :count] = np.array([place.get(identity, missing) for identity in ids_T[:count].tolist()])
        return ranks_QT

    def recall(self, ranks_QT: npt.NDArray[np.int64], keep: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Recall of each query (Q,) if its first `keep` candidates are ranked exactly; ties count as found.

        Args:
            ranks_QT: Places of the true neighbours.
            keep: One number, or one for each query (Q,).
        """
        found_Q: npt.NDArray[np.int64] = (ranks_QT < np.reshape(keep, (-1, 1))).sum(axis=1)
        return np.minimum(found_Q, self.k) / self.k


def exact_neighbours(
    blocks: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.floating]]],
    query_QD: npt.NDArray[np.float32],
    k: int,
    own_ids_Q: npt.NDArray[np.int64] | None = None,
) -> GroundTruth:
    """Compare every query with every row at full width, in float32, one block of rows at a time.

    Args:
        blocks: Ids (B,) and vectors (B, D) of any float dtype.
        query_QD: float32 unit rows.
        k: Neighbours wanted; there must be as many rows.
        own_ids_Q: Id of each query's own row, which is no neighbour of it.
    """
    width = query_QD.shape[1]
    own = None if own_ids_Q is None else pa.array(own_ids_Q)
    search = ExactSearch(query_QD, (width,), k + _TIES, query_ids=own)
    for ids_B, x_BD in blocks:
        search.add(pa.array(ids_B), x_BD)
    best = search.best[width]
    ids_QT = best.ids.fill_null(-1).to_numpy().reshape(best.scores_QK.shape)
    as_good = best.scores_QK >= best.scores_QK[:, k - 1 : k] - _SAME_SCORE
    return GroundTruth(k, ids_QT, as_good.sum(axis=1))
