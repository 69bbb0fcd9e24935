"""Ground truth, and one score per query from it: top-1, mAP, recall, nDCG.

Owns the metrics. Does not own search, intervals or files. Scores are kept query by query, so that intervals can be
computed and systems can be compared on the same queries. `docs/decisions/0015-metrics.md` says why no metrics library
is used; the tests compare these metrics with scikit-learn's.

Shapes: N database rows, Q queries, K neighbours, J judged pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Right = npt.NDArray[np.bool_]

NOTHING = -1
"""Row number where a search found fewer than K neighbours."""


class GroundTruth(Protocol):
    """Which database rows are correct answers to each query."""

    @property
    def depth(self) -> int:
        """Number of neighbours that `score` needs."""
        ...

    def needs(self, k: int) -> int:
        """Return how many neighbours a metric of the first k needs."""
        ...

    def score(self, found_QK: Rows) -> dict[str, Scores]:
        """Score the neighbours of each query, best first: (Q,) per metric.

        A metric that needs more neighbours than were found is left out.
        """
        ...

    def of_queries(self, places: Rows) -> GroundTruth:
        """Return the ground truth of some of the queries; `places` ascend."""
        ...


@dataclass(frozen=True, eq=False)
class Labels:
    """Ground truth by class: a neighbour is correct when its class is that of the query.

    Attributes:
        database_N: Class of each database row, int64.
        queries_Q: Class of each query, int64.
        k: Neighbours that mAP looks at.
        recall_ks: Neighbours that recall looks at; one of them must be of the class.
    """

    database_N: Rows
    queries_Q: Rows
    k: int = 10
    recall_ks: Sequence[int] = ()

    @property
    def depth(self) -> int:
        """Number of neighbours that `score` needs."""
        return max(self.k, *self.recall_ks, 1)

    def needs(self, k: int) -> int:
        """Return how many neighbours a metric of the first k needs: k, or all rows where there are fewer."""
        return min(k, len(self.database_N))

    def of_queries(self, places: Rows) -> Labels:
        """Return the ground truth of some of the queries; `places` ascend."""
        return replace(self, queries_Q=self.queries_Q[places])

    def right(self, found_QK: Rows) -> Right:
        """Return for each neighbour whether it is of the query's class: (Q, K)."""
        right_QK: Right = (self.database_N[found_QK] == self.queries_Q[:, None]) & (found_QK != NOTHING)
        return right_QK

    def score(self, found_QK: Rows) -> dict[str, Scores]:
        """Return `1-NN`, `mAP@k` and `recall@K` of each query, as far as there are enough neighbours."""
        right_QK = self.right(found_QK)
        scores: dict[str, Scores] = {"1-NN": right_QK[:, 0].astype(np.float64)}
        if found_QK.shape[1] >= self.needs(self.k):
            scores[f"mAP@{self.k}"] = average_precision(right_QK, self.k)
        for k in self.recall_ks:
            if found_QK.shape[1] >= self.needs(k):
                scores[f"recall@{k}"] = np.asarray(right_QK[:, :k].any(axis=1), np.float64)
        return scores


@dataclass(frozen=True, eq=False)
class Judgements:
    """Ground truth by relevance judgements (qrels): each judged pair of query and document has a gain.

    Attributes:
        keys_J: Judged pairs as query * N + row, ascending. Documents that the database lacks are left out.
        gains_J: Gain of each pair, above 0.
        ideal_QK: Gains of each query's K best documents, descending, padded with 0.
        relevant_Q: Number of documents with a gain above 0, in the database or not.
        own_Q: Database row with the query's own id, which is not an answer; `NOTHING` where there is none.
        rows: N.
        k: Neighbours that nDCG looks at.
        recall_ks: Neighbours that recall looks at.
    """

    keys_J: Rows
    gains_J: Scores
    ideal_QK: Scores
    relevant_Q: Rows
    own_Q: Rows
    rows: int
    k: int = 10
    recall_ks: Sequence[int] = (100,)

    @classmethod
    def of(
        cls,
        judged: Mapping[str, Mapping[str, int]],
        queries: Sequence[str],
        database: Sequence[str],
        k: int = 10,
        recall_ks: Sequence[int] = (100,),
    ) -> Judgements:
        """Translate judgements of ids into judgements of rows.

        Args:
            judged: Query id to document id to gain; each query has one above 0.
            queries: Ids of the queries, in their order.
            database: Ids of the documents, in the order of their rows.
            k: Neighbours that nDCG looks at.
            recall_ks: Neighbours that recall looks at.
        """
        row_of = {name: row for row, name in enumerate(database)}
        relevant = [{doc: gain for doc, gain in judged[query].items() if gain > 0} for query in queries]
        pairs = sorted(
            (q * len(database) + row_of[doc], gain)
            for q, gains in enumerate(relevant)
            for doc, gain in gains.items()
            if doc in row_of
        )
        ideal_QK = np.zeros((len(queries), k))
        for q, gains in enumerate(relevant):
            best = sorted(gains.values(), reverse=True)[:k]
            ideal_QK[q, : len(best)] = best
        return cls(
            keys_J=np.array([key for key, _ in pairs], np.int64),
            gains_J=np.array([gain for _, gain in pairs], np.float64),
            ideal_QK=ideal_QK,
            relevant_Q=np.array([len(gains) for gains in relevant], np.int64),
            own_Q=np.array([row_of.get(query, NOTHING) for query in queries], np.int64),
            rows=len(database),
            k=k,
            recall_ks=recall_ks,
        )

    @property
    def depth(self) -> int:
        """Number of neighbours that `score` needs: one more than it looks at where a query may find itself."""
        return max(self.k, *self.recall_ks, 1) + self._own

    @property
    def _own(self) -> int:
        """One where a query may find itself, which is skipped."""
        return int((self.own_Q != NOTHING).any())

    def needs(self, k: int) -> int:
        """Return how many neighbours a metric of the first k needs: one more where a query may find itself."""
        return min(k + self._own, self.rows)

    def of_queries(self, places: Rows) -> Judgements:
        """Return the ground truth of some of the queries; `places` ascend."""
        queries_J, rows_J = np.divmod(self.keys_J, self.rows)
        is_kept_J = np.isin(queries_J, places)
        return replace(
            self,
            keys_J=np.searchsorted(places, queries_J[is_kept_J]) * self.rows + rows_J[is_kept_J],
            gains_J=self.gains_J[is_kept_J],
            ideal_QK=self.ideal_QK[places],
            relevant_Q=self.relevant_Q[places],
            own_Q=self.own_Q[places],
        )

    def gains(self, found_QK: Rows) -> Scores:
        """Return the gain of each neighbour for its query: (Q, K), 0 where it was not judged."""
        if not len(self.keys_J):
            return np.zeros(found_QK.shape)
        keys_QK = np.arange(len(found_QK))[:, None] * self.rows + found_QK
        places_QK = np.searchsorted(self.keys_J, keys_QK).clip(max=len(self.keys_J) - 1)
        is_judged = (self.keys_J[places_QK] == keys_QK) & (found_QK != NOTHING)
        return np.where(is_judged, self.gains_J[places_QK], 0.0)

    def score(self, found_QK: Rows) -> dict[str, Scores]:
        """Return `nDCG@k` and `recall@K` of each query, as far as there are enough neighbours, its own id skipped."""
        gains_QK = self.gains(_without(found_QK, self.own_Q))
        scores: dict[str, Scores] = {}
        if found_QK.shape[1] >= self.needs(self.k):
            scores[f"nDCG@{self.k}"] = ndcg(gains_QK, self.ideal_QK, self.k)
        for k in self.recall_ks:
            if found_QK.shape[1] >= self.needs(k):
                scores[f"recall@{k}"] = np.count_nonzero(gains_QK[:, :k], axis=1) / self.relevant_Q
        return scores


def average_precision(right_QK: Right, k: int) -> Scores:
    """Return the precision at each correct neighbour among the first k, summed, divided by k: (Q,).

    Source: Kusupati et al. 2022 (arXiv 2205.13147), section 4.3: mAP@k divides by k, even where fewer than k rows are
    correct. The paper searches 2048 neighbours, of which only the first k count.
    """
    right_QK = right_QK[:, :k]
    precision_QK = np.cumsum(right_QK, axis=1) / np.arange(1, right_QK.shape[1] + 1)
    total: Scores = (precision_QK * right_QK).sum(axis=1) / k
    return total


def ndcg(gains_QK: Scores, ideal_QK: Scores, k: int) -> Scores:
    """Return the discounted gain of the first k as a share of the ideal one: (Q,), 0 to 1.

    Source: Järvelin and Kekäläinen 2002, with linear gains and a discount of log2(rank + 1), as trec_eval and BEIR do.
    """
    found_Q, best_Q = (_discounted(x_QK[:, :k]) for x_QK in (gains_QK, ideal_QK))
    return np.divide(found_Q, best_Q, out=np.zeros_like(found_Q), where=best_Q > 0)


def _discounted(gains_QK: Scores) -> Scores:
    total: Scores = gains_QK @ (1 / np.log2(np.arange(2, gains_QK.shape[1] + 2)))
    return total


def _without(found_QK: Rows, own_Q: Rows) -> Rows:
    """Replace each query's own row by `NOTHING` and move it behind the others."""
    is_own_QK = (found_QK == own_Q[:, None]) & (found_QK != NOTHING)
    order_QK = np.argsort(is_own_QK, axis=1, kind="stable")
    return np.take_along_axis(np.where(is_own_QK, NOTHING, found_QK), order_QK, axis=1)
