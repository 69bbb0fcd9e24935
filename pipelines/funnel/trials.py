"""Try plans on a table: fill their stages in RAM, or read them in the lake, and search as a funnel does.

Owns how a plan is searched while it is tuned. The search itself is that of `snapshot` and `lake`, over all rows of the
table, so what a trial finds is what the funnel will find. A query that is a row of the table does not count as its own
neighbour: it is searched with one candidate and one result more, and leaves its own row out.

Shapes: Q queries, N rows, B rows of a block, D full width, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from lance import LanceDataset

from pipelines.funnel.faiss_stages import Positions, train_stages, training_rows
from pipelines.funnel.goal import Goal
from pipelines.funnel.ground_truth import Blocks
from pipelines.funnel.lake import LakeIndex, coarse_candidates, misses_of
from pipelines.funnel.rerank import Counts, Found, rerank
from pipelines.funnel.selection import Trial
from pipelines.funnel.slices import FaissSlices, fill_stores
from pipelines.funnel.snapshot import SPARE, Snapshot
from pipelines.funnel.widening import gaps, judges_codes, usual_doubt, usual_reach
from pipelines.vectors.arrays import Floats, Halves
from pipelines.vectors.matryoshka import unit
from schemas.plans import Home, Plan

_BLOCK_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class TableVectors:
    """Hold all vectors of a table in RAM, for the time of tuning.

    Attributes:
        dataset: The version of the table.
        row_ids_N: Row ids.
        x_ND: float16 unit rows.
        ladder: Dims that the space may be cut to, ascending; the last is D.
        home: Where the tuned funnel will live: `memory` or `codes`.
    """

    dataset: LanceDataset
    row_ids_N: Positions
    x_ND: Halves
    ladder: Sequence[int]
    home: Home

    def draw_queries(self, goal: Goal) -> tuple[Positions, Floats]:
        """Draw rows to serve as queries; return their row ids (Q,), and the rows as float32 unit rows (Q, D)."""
        drawn = goal.draw(len(self.x_ND))
        return self.row_ids_N[drawn], unit(self.x_ND[drawn].astype(np.float32))

    def blocks(self) -> Blocks:
        """Yield row ids (B,) and vectors (B, D)."""
        for start in range(0, len(self.x_ND), _BLOCK_ROWS):
            yield self.row_ids_N[start : start + _BLOCK_ROWS], self.x_ND[start : start + _BLOCK_ROWS]

    def vector_blocks(self) -> Iterator[Halves]:
        """Yield vectors (B, D)."""
        return (x_BD for _, x_BD in self.blocks())


class MemoryTrials:
    """Makes trials over one table in RAM; all share its full vectors."""

    def __init__(self, vectors: TableVectors, own_ids_Q: Positions | None) -> None:
        """Fill the last stage, unless it stays in the table; `own_ids_Q` are the row ids of queries that are rows."""
        self._vectors, self._own_ids_Q = vectors, own_ids_Q
        rows, width = vectors.x_ND.shape
        self._stores = fill_stores(vectors.vector_blocks(), rows, width) if vectors.home == "memory" else None
        order = np.random.default_rng(0).permutation(rows)
        self._sampled = order if own_ids_Q is None else order[~np.isin(vectors.row_ids_N[order], own_ids_Q)]

    def __call__(self, plans: Sequence[Plan]) -> Iterator[Trial]:
        """Yield a trial for each plan; the plans differ only in numbers of candidates and probes.

        The codes are trained on rows that are no queries.
        """
        table = self._vectors
        sample = self._sampled[: training_rows(plans[0])]
        empty = train_stages(plans[0], table.x_ND[sample].astype(np.float32))
        slices = FaissSlices.build(empty, table.vector_blocks(), len(table.x_ND), self._stores)
        filled = Snapshot(table.dataset, slices, table.row_ids_N, None, table.row_ids_N[:0], table.x_ND[:0])
        for plan in plans:
            yield Trial(
                plan,
                partial(self._candidates, slices),
                partial(_search, filled, self._own_ids_Q),
                partial(self._usual, slices, filled),
                tuple(empty),
                spare=SPARE,
            )

    def _candidates(self, slices: FaissSlices, plan: Plan, query_QD: Floats, which: slice) -> Positions:
        own_ids = _own(self._own_ids_Q, which)
        found_QK = slices.candidates(_with_own(plan, own_ids), query_QD)[1]
        rows_QK: Positions = _without(own_ids, self._ids(found_QK))[0]
        return rows_QK

    def _usual(
        self, slices: FaissSlices, filled: Snapshot, plan: Plan, query_QD: Floats, which: slice
    ) -> dict[str, Any]:
        if plan.is_exact:  # more candidates would find nothing better
            return {"reach": None}
        own_ids = _own(self._own_ids_Q, which)
        if judges_codes(plan):
            scores_QK, found_QK = slices.candidates(_with_own(plan, own_ids).ranking_all(), query_QD)
        else:
            wide = _with_own(plan.keeping(max(plan.candidates, plan.k + SPARE)), own_ids)
            if slices.holds_vectors:
                scores_QK, found_QK = slices.search(wide, query_QD, wide.candidates)
            else:
                found_Q = [found[found >= 0] for found in slices.candidates(wide, query_QD)[1]]
                scores_QK, found_QK = rerank(query_QD, found_Q, filled.vectors, wide.candidates)
        rows_QK, scores_QK = _without(own_ids, self._ids(found_QK), scores_QK)
        return {"reach": usual_reach(gaps(np.where(rows_QK < 0, -np.inf, scores_QK), plan.k))}

    def _ids(self, positions_QK: Positions) -> Positions:
        return np.where(positions_QK < 0, -1, self._vectors.row_ids_N[positions_QK])


def lake_trial(dataset: LanceDataset, plan: Plan, own_ids_Q: Positions | None) -> Trial:
    """Return the trial of a plan in the lake."""
    return Trial(
        plan,
        partial(_lake_candidates, dataset, own_ids_Q),
        partial(_search, LakeIndex(dataset, plan), own_ids_Q),
        partial(_usual_in_lake, dataset, own_ids_Q),
    )


def scored_candidates(
    dataset: LanceDataset,
    own_ids_Q: Positions | None,
    plan: Plan,
    query_QD: Floats,
    which: slice,
    *,
    is_refined: bool = True,
) -> tuple[Floats, Positions]:
    """Return cosines and row ids (Q, K) that all stages but the last find, without the queries' own rows.

    Args:
        dataset: Version of the table.
        own_ids_Q: Row ids of all queries that are rows of the table.
        plan: The plan.
        query_QD: The queries.
        which: Which of all queries these are.
        is_refined: Order what an index finds by true cosines, not by its codes.
    """
    own_ids = _own(own_ids_Q, which)
    wide = _with_own(plan, own_ids)
    scores_QK = np.full((len(query_QD), wide.candidates), -np.inf, np.float32)
    found_QK = np.full(scores_QK.shape, -1, np.int64)
    for row, query_D in enumerate(query_QD):
        scores, found = coarse_candidates(dataset, wide, query_D, is_refined=is_refined)
        found_QK[row, : len(found)], scores_QK[row, : len(found)] = found, scores
    found_QK, scores_QK = _without(own_ids, found_QK, scores_QK)
    return np.where(found_QK < 0, -np.inf, scores_QK), found_QK


def _lake_candidates(
    dataset: LanceDataset, own_ids_Q: Positions | None, plan: Plan, query_QD: Floats, which: slice
) -> Positions:
    """Return candidates in the order in which a search with fewer would find them."""
    return scored_candidates(dataset, own_ids_Q, plan, query_QD, which, is_refined=False)[1]


def _usual_in_lake(
    dataset: LanceDataset, own_ids_Q: Positions | None, plan: Plan, query_QD: Floats, which: slice
) -> dict[str, Any]:
    own_ids = _own(own_ids_Q, which)
    wide, each = _with_own(plan, own_ids), [None] * len(query_QD) if own_ids is None else own_ids.tolist()
    misses = [misses_of(dataset, wide, plan.k, *asked) for asked in zip(query_QD, each, strict=True)]
    return {"doubt": usual_doubt(np.array(misses), plan.recall)}


def _search(
    index: Snapshot | LakeIndex, own_ids_Q: Positions | None, plan: Plan, query_QD: Floats, which: slice
) -> tuple[Positions, Counts]:
    """Search as the funnel will; return row ids (Q, k), and the number (Q,) of full vectors compared."""
    own_ids = _own(own_ids_Q, which)
    wide = _with_own(plan, own_ids)
    found: Found = index.find(query_QD, wide.k, wide)
    return _without(own_ids, found.rows_BK)[0], found.compared_B - (wide.k - plan.k)


def _own(own_ids_Q: Positions | None, which: slice) -> Positions | None:
    return None if own_ids_Q is None else own_ids_Q[which]


def _with_own(plan: Plan, own_ids_Q: Positions | None) -> Plan:
    return plan if own_ids_Q is None else plan.with_one_more()


def _without(own_ids_Q: Positions | None, rows_QK: Positions, *beside: Floats) -> tuple[Any, ...]:
    """Leave out each query's own row, or the last where it is not found; arrays beside (Q, K) follow."""
    if own_ids_Q is None:
        return rows_QK, *beside
    order_QK = np.argsort(rows_QK == own_ids_Q[:, None], axis=1, kind="stable")[:, :-1]
    return tuple(np.take_along_axis(x_QK, order_QK, axis=1) for x_QK in (rows_QK, *beside))
