"""Measure recall: exact neighbours as ground truth, the recall of candidates, and its confidence interval.

Owns the comparison. Owns no exact search: that is `shortlist.exact`.

Recall is counted by score. A row that ties with the k-th neighbour is as good as it, however many tie: copies of one
picture, or of one text. Rows that score better than the k-th cannot be replaced by ties.

Shapes: Q queries, P queries whose ties are collected, B rows of a block, D width, K candidates, T listed neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.funnel.faiss_stages import Positions
from pipelines.shortlist.exact import ExactSearch
from pipelines.vectors.arrays import Floats
from pipelines.vectors.matryoshka import have_direction, unit
from schemas.errors import TableError

Z_OF_95 = 1.96
"""Standard normal quantile of a two-sided 95 % interval."""

Blocks = Iterable[tuple[Positions, npt.NDArray[np.floating]]]

# Neighbours beyond the k-th that are listed. Only where all of these tie, the table is read again for the others.
_LISTED_TIES = 16
_BLOCK_ROWS = 8_192
# Ids of ties that are held. Queries that need more count fewer ties than there are: recall is then understated.
_MAX_TIES = 1 << 25


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Hold the exact neighbours of Q queries.

    Attributes:
        k: Neighbours per query.
        better_Q: For each query, ascending int64 ids of the rows that score better than its k-th neighbour; under k.
        ties_Q: For each query, ascending ids of the rows that score as its k-th neighbour does.
    """

    k: int
    better_Q: Sequence[Positions]
    ties_Q: Sequence[Positions]

    def ranks(self, candidates_QK: Positions, queries: slice = slice(None)) -> Positions:
        """Return the places (Q, k) of k neighbours among the candidates; K for each one that is missing.

        Args:
            candidates_QK: Distinct ids, best first.
            queries: The queries that the candidates are of.
        """
        ranks_QK = np.full((len(candidates_QK), self.k), candidates_QK.shape[1], np.int64)
        for ranks, found_K, better, ties in zip(
            ranks_QK, candidates_QK, self.better_Q[queries], self.ties_Q[queries], strict=True
        ):
            is_better_K = _are_among(found_K, better)
            tied = np.flatnonzero(_are_among(found_K, ties) & ~is_better_K)[: self.k - len(better)]
            places = np.concatenate([np.flatnonzero(is_better_K), tied])
            ranks[: len(places)] = places
        return ranks_QK

    def recall(self, ranks_QK: Positions, keep: int | Positions) -> npt.NDArray[np.float64]:
        """Return the recall (Q,) of each query if its first `keep` candidates are ranked exactly.

        Args:
            ranks_QK: Places of the neighbours, from `ranks`.
            keep: One number, or one per query (Q,).
        """
        share_Q: npt.NDArray[np.float64] = (ranks_QK < np.reshape(keep, (-1, 1))).sum(axis=1) / self.k
        return share_Q


def exact_neighbours(
    blocks: Callable[[], Blocks],
    query_QD: Floats,
    ks: Sequence[int],
    own_ids_Q: Positions | None = None,
) -> dict[int, GroundTruth]:
    """Find exact neighbours: compare every query with every row at full width, in float32, block by block.

    Args:
        blocks: Reads the table: ids (B,) and vectors (B, D) of any float dtype.
        query_QD: float32 unit rows.
        ks: Numbers of neighbours per query; there must be at least as many rows.
        own_ids_Q: Id of each query's own row, which does not count as its neighbour.

    Returns:
        The neighbours by k.

    Raises:
        TableError: Rows have no direction, as another tool may have written them.
    """
    width = query_QD.shape[1]
    own = None if own_ids_Q is None else pa.array(own_ids_Q)
    search = ExactSearch(query_QD, (width,), max(ks) + _LISTED_TIES, query_ids=own)
    unusable = 0
    for ids_B, x_BD in blocks():
        unusable += int((~have_direction(x_BD)).sum())
        search.add(pa.array(ids_B), x_BD)
    if unusable:
        raise TableError(
            f"{unusable:,} rows have vectors without a direction (all zeros, NaN or infinity), which another tool has "
            "written: no recall can be measured among them; give them vectors, or erase them with `mlake delete`"
        )
    scores_QT = search.best[width].scores_QK
    ids_QT = search.best[width].ids.fill_null(-1).to_numpy().reshape(scores_QT.shape)
    # The sum of D products in float32 is off by about sqrt(D) roundings.
    same = max(1e-6, math.sqrt(width) * float(np.finfo(np.float32).eps))
    truths = {}
    for k in ks:
        kth_Q1 = scores_QT[:, k - 1 : k]
        is_better_QT, is_tie_QT = scores_QT > kth_Q1 + same, np.abs(scores_QT - kth_Q1) <= same
        better_Q, ties_Q = (
            [np.sort(ids[chosen]) for ids, chosen in zip(ids_QT, mask_QT, strict=True)]
            for mask_QT in (is_better_QT, is_tie_QT)
        )
        if len(unlisted := np.flatnonzero(is_tie_QT[:, -1])):
            all_P = _all_ties(blocks(), query_QD[unlisted], kth_Q1[unlisted], same)
            for query, ties in zip(unlisted, all_P, strict=True):
                ties_Q[query] = max(ties, ties_Q[query], key=len)
        truths[k] = GroundTruth(k, better_Q, ties_Q)
    return truths


def _all_ties(blocks: Blocks, query_PD: Floats, kth_P1: Floats, same: float) -> list[Positions]:
    """Return ascending ids of all rows that tie with each query's k-th neighbour; equal results share one array."""
    parts_P: list[list[Positions]] = [[] for _ in query_PD]
    held = 0
    for ids_B, x_BD in _small_blocks(blocks):
        is_tie_PB = np.abs(query_PD @ unit(x_BD.astype(np.float32)).T - kth_P1) <= same
        shared: dict[bytes, Positions] = {}
        for query in np.flatnonzero(is_tie_PB.any(axis=1)):
            ties = ids_B[is_tie_PB[query]]
            key = ties.tobytes()
            if key not in shared and held < _MAX_TIES:
                shared[key], held = ties, held + len(ties)
            if key in shared:
                parts_P[query].append(shared[key])
    merged: dict[tuple[int, ...], Positions] = {(): np.empty(0, np.int64)}
    keys = [tuple(map(id, parts)) for parts in parts_P]
    for key_of_parts, parts in zip(keys, parts_P, strict=True):
        if key_of_parts not in merged:
            merged[key_of_parts] = np.sort(np.concatenate(parts))
    return [merged[key_of_parts] for key_of_parts in keys]


def _small_blocks(blocks: Blocks) -> Blocks:
    for ids_B, x_BD in blocks:
        for start in range(0, len(ids_B), _BLOCK_ROWS):
            yield ids_B[start : start + _BLOCK_ROWS], x_BD[start : start + _BLOCK_ROWS]


def _are_among(ids_K: Positions, ascending: Positions) -> npt.NDArray[np.bool_]:
    """Tell which ids are in an ascending array."""
    if not len(ascending):
        return np.zeros(len(ids_K), np.bool_)
    at_K = np.searchsorted(ascending, ids_K).clip(max=len(ascending) - 1)
    among_K: npt.NDArray[np.bool_] = ascending[at_K] == ids_K
    return among_K


def recall_interval(recall_Q: npt.NDArray[np.floating], z: float = Z_OF_95) -> tuple[float, float, float]:
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
