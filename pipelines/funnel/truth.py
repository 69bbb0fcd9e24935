"""What the exact search finds, and how far down a list of candidates: what every recall is measured against.

Owns exact search over blocks of rows; owns no index. Shapes: Q queries, B rows of a block, D width, K candidates, T
true neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipelines.matryoshka import unit

_TIES = 16
_SAME_SCORE = 1e-6


@dataclass(frozen=True, eq=False)
class Truth:
    """Exact neighbours of Q queries.

    Attributes:
        k: Neighbours asked for.
        ids_QT: int64 ids, best first: the k best and a few more, so that ties at the k-th place are known.
        counts_Q: How many of them are as good as the k-th.
    """

    k: int
    ids_QT: npt.NDArray[np.int64]
    counts_Q: npt.NDArray[np.int64]

    def ranks(self, candidates_QK: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return (Q, T): at which place of its candidates each true neighbour stands; K where it is not among them."""
        missing = candidates_QK.shape[1]
        ranks_QT = np.full(self.ids_QT.shape, missing, np.int64)
        for query, (ids_T, found_K, count) in enumerate(zip(self.ids_QT, candidates_QK, self.counts_Q, strict=True)):
            place = {identity: rank for rank, identity in enumerate(found_K.tolist())}
            ranks_QT[query, :count] = np.array([place.get(identity, missing) for identity in ids_T[:count].tolist()])
        return ranks_QT

    def recall(self, ranks_QT: npt.NDArray[np.int64], keep: int) -> npt.NDArray[np.float64]:
        """Recall of each query (Q,) if the first `keep` candidates are ranked exactly; ties count as found."""
        found_Q: npt.NDArray[np.int64] = (ranks_QT < keep).sum(axis=1)
        return np.minimum(found_Q, self.k) / self.k


def exact_neighbours(
    blocks: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.floating]]],
    query_QD: npt.NDArray[np.float32],
    k: int,
    own_ids_Q: npt.NDArray[np.int64] | None = None,
) -> Truth:
    """Compare every query with every row at full width, in float32, one block of rows at a time.

    Args:
        blocks: Ids (B,) and vectors (B, D) of any float dtype; rows are brought to unit length.
        query_QD: float32 unit rows.
        k: Neighbours wanted.
        own_ids_Q: Id of each query's own row, which is no neighbour of it.

    Raises:
        ValueError: There are fewer than k rows.
    """
    queries = torch.from_numpy(query_QD)
    own = None if own_ids_Q is None else torch.from_numpy(own_ids_Q)[:, None]
    scores = torch.full((len(query_QD), 0), -np.inf)
    ids = torch.full((len(query_QD), 0), -1, dtype=torch.int64)
    for ids_B, x_BD in blocks:
        block_QB = queries @ unit(torch.from_numpy(x_BD.astype(np.float32))).T
        id_B = torch.from_numpy(ids_B)
        if own is not None:
            block_QB[own == id_B] = -np.inf
        best = block_QB.topk(min(k + _TIES, block_QB.shape[1]), dim=1)
        scores = torch.cat([scores, best.values], dim=1)
        ids = torch.cat([ids, id_B[best.indices]], dim=1)
        kept = scores.topk(min(k + _TIES, scores.shape[1]), dim=1)
        scores, ids = kept.values, ids.gather(1, kept.indices)
    if scores.shape[1] < k:
        raise ValueError(f"{scores.shape[1]} rows have no {k} nearest")
    as_good = scores >= scores[:, k - 1 : k] - _SAME_SCORE
    return Truth(k, ids.numpy(), as_good.sum(dim=1).numpy())
