"""Measure recall: exact neighbours as ground truth, the recall of candidates, and its confidence interval.

Owns the comparison. Owns no exact search: that is `shortlist.exact`.

Shapes: Q queries, B rows of a block, D width, K candidates, T true neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.shortlist.exact import ExactSearch

# Neighbours beyond the k-th that are kept, to know which tie with it.
_TIES = 16
_SAME_SCORE = 1e-6


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Hold the exact neighbours of Q queries.

    Attributes:
        k: Neighbours per query.
        ids_QT: int64 ids, best first: the k best and a few more, to know which tie with the k-th.
        counts_Q: Neighbours of each query that score at least as well as its k-th.
    """

    k: int
    ids_QT: npt.NDArray[np.int64]
    counts_Q: npt.NDArray[np.int64]

    def ranks(self, candidates_QK: npt.NDArray[np.int64], queries: slice = slice(None)) -> npt.NDArray[np.int64]:
        """Return the place (Q, T) of each true neighbour among its query's candidates; K if it is not among them.

        Args:
            candidates_QK: Ids, best first.
            queries: The queries that the candidates are of.
        """
        missing = candidates_QK.shape[1]
        ids_QT, counts_Q = self.ids_QT[queries], self.counts_Q[queries]
        ranks_QT = np.full(ids_QT.shape, missing, np.int64)
        for query, (ids_T, found_K, count) in enumerate(zip(ids_QT, candidates_QK, counts_Q, strict=True)):
            place = {identity: rank for rank, identity in enumerate(found_K.tolist())}
            ranks_QT[query, :count] = np.array([place.get(identity, missing) for identity in ids_T[:count].tolist()])
        return ranks_QT

    def recall(self, ranks_QT: npt.NDArray[np.int64], keep: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the recall (Q,) of each query if its first `keep` candidates are ranked exactly.

        Any neighbour that ties with the k-th counts as found.

        Args:
            ranks_QT: Places of the true neighbours, from `ranks`.
            keep: One number, or one per query (Q,).
        """
        found_Q: npt.NDArray[np.int64] = (ranks_QT < np.reshape(keep, (-1, 1))).sum(axis=1)
        return np.minimum(found_Q, self.k) / self.k


def exact_neighbours(
    blocks: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.floating]]],
    query_QD: npt.NDArray[np.float32],
    k: int,
    own_ids_Q: npt.NDArray[np.int64] | None = None,
) -> GroundTruth:
    """Find exact neighbours: compare every query with every row at full width, in float32, block by block.

    Args:
        blocks: Ids (B,) and vectors (B, D) of any float dtype.
        query_QD: float32 unit rows.
        k: Neighbours per query; there must be at least as many rows.
        own_ids_Q: Id of each query's own row, which does not count as its neighbour.
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


def recall_interval(recall_Q: npt.NDArray[np.floating], z: float = 1.96) -> tuple[float, float, float]:
    """Return the mean recall of Q queries with its confidence interval.

    The k results of one query are not independent. So this is Wilson's interval at the effective number of trials
    that the variance between queries implies; without variance, at the number of queries.

    Args:
        recall_Q: Recall of each query, 0 to 1.
        z: Standard normal quantile; 1.96 gives a two-sided 95 % interval.

    Returns:
        Mean, lower end, upper end.

    Source: Wilson 1927; effective sample size after Korn and Graubard 1998.
    """
    queries, mean = len(recall_Q), float(np.mean(recall_Q))
    spread = float(np.var(recall_Q, ddof=1)) if queries > 1 else 0.0
    trials = max(queries, mean * (1 - mean) / spread * queries) if spread else queries
    centre = (mean + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(mean * (1 - mean) / trials + z * z / (4 * trials * trials))
    return mean, max(0.0, centre - half), min(1.0, centre + half)
