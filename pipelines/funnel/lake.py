"""Search a funnel in the lake: through the table's own prefix columns and Lance indexes, for tables larger than RAM.

Owns no copy of any data: Lance applies deletes, updates, appends and filters, so nothing here can be out of date.

Shapes: B queries, K candidates, D full width, M prefix width.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
from lance import LanceDataset

from pipelines.funnel.faiss_stages import Positions
from pipelines.funnel.rerank import Found, search_table
from pipelines.funnel.widening import expected_misses
from pipelines.tables.rows import has_everywhere, read_rows, row_ids
from pipelines.vectors.arrays import Floats, to_numpy
from pipelines.vectors.matryoshka import cut, have_direction
from schemas.columns import VECTOR, prefix_column
from schemas.explanations import Explanation, StageReport
from schemas.plans import FunnelStage, Plan

# A query whose candidates lack too many of the best rows is searched again with so many times as many.
_WIDER = (1, 8, 32)

_Scored = tuple[Floats, Positions]


class LakeIndex:
    """A funnel whose stages are read from the table."""

    def __init__(self, dataset: LanceDataset, plan: Plan) -> None:
        """Read from one version of a table."""
        self.dataset, self.plan = dataset, plan

    @property
    def version(self) -> int:
        """Version of the table that a search sees."""
        return int(self.dataset.version)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of RAM that a vector takes: none."""
        return 0

    def refresh(self, dataset: LanceDataset) -> None:
        """Read from another version of the table."""
        self.dataset = dataset

    def find(self, query_BD: Floats, k: int, plan: Plan | None, where: str | None = None) -> Found:
        """Return the k best rows of each query.

        Args:
            query_BD: float32 unit rows at full width.
            k: Results per query.
            plan: The plan to follow; None compares every row.
            where: SQL; only rows that satisfy it are searched.
        """
        dataset = self.dataset
        if plan is None:
            return search_table(dataset, query_BD, k, where)
        scores_BK = np.full((len(query_BD), k), -np.inf, np.float32)
        rows_BK = np.full((len(query_BD), k), -1, np.int64)
        compared_B = np.zeros(len(query_BD), np.int64)
        for row, query_D in enumerate(query_BD):
            (scores, rows), compared_B[row] = _search_one(dataset, plan, query_D, k, where)
            count = min(k, len(rows))
            scores_BK[row, :count], rows_BK[row, :count] = scores[:k], rows[:k]
        return Found(scores_BK, rows_BK, dataset, compared_B)

    def explain(self, query_D: Floats, where: str | None, exact_us: float) -> Explanation:
        """Search once and report each stage, with its reads from the storage."""
        plan, dataset, total = self.plan, self.dataset, self.dataset.count_rows(where)
        reports: list[StageReport] = []
        rows = np.empty(0, np.int64)
        for stage in plan.stages:
            dataset.io_stats_incremental()
            started, compared = time.perf_counter(), len(rows) if reports else total
            if reports:
                _, rows = rank(dataset, stage, query_D, rows, stage.keep)
            else:
                _, rows = within_margin(plan, *candidates(dataset, plan, query_D, where))
            seconds, asked = time.perf_counter() - started, dataset.io_stats_incremental()
            reports.append(
                StageReport(
                    dims=stage.dims,
                    precision=stage.precision,
                    compared=compared,
                    kept=len(rows),
                    bytes_read=asked.read_bytes,
                    requests=asked.read_iops,
                    milliseconds=1e3 * seconds,
                )
            )
        exact_bytes = 4 * plan.stages[-1].dims * total
        return Explanation(stages=tuple(reports), exact_bytes=exact_bytes, exact_milliseconds=exact_us / 1e3)


def _search_one(dataset: LanceDataset, plan: Plan, query_D: Floats, k: int, where: str | None) -> tuple[_Scored, int]:
    """Return the cosines and row ids of all candidates, best first, and the number of full vectors compared.

    There are more candidates where too many of the best rows are missed.
    """
    wider, rows, compared = plan, dataset.count_rows(), 0
    for factor in _WIDER:
        if factor > 1:
            wider = plan.wider(factor, rows).model_copy(update={"margin": None})
            if 2 * wider.stages[0].keep >= rows:
                found = search_table(dataset, query_D[None], k, where)
                is_row_K = found.rows_BK[0] >= 0
                return (found.scores_BK[0][is_row_K], found.rows_BK[0][is_row_K]), compared + int(found.compared_B[0])
        coarse = candidates(dataset, wider, query_D, where)
        fine, misses = _rank_all(dataset, wider, query_D, plan.k, within_margin(wider, *coarse))
        compared += len(fine[1]) if len(plan.stages) == 2 else 0
        has_all = len(coarse[1]) < wider.stages[0].keep and wider.margin is None
        if plan.doubt is None or has_all or misses <= plan.doubt:
            break
    scores, rows_K = fine
    for before, stage in pairwise(wider.stages[1:]):
        scores, rows_K = rank(dataset, stage, query_D, rows_K[: before.keep], before.keep)
    return (scores, rows_K), compared or len(rows_K)


def _rank_all(dataset: LanceDataset, plan: Plan, query_D: Floats, k: int, coarse: _Scored) -> tuple[_Scored, float]:
    """Rank all candidates of the first stage by the second, and estimate which share of the k best they lack."""
    scores_K, rows_K = coarse
    fine = rank(dataset, plan.stages[1], query_D, rows_K, len(rows_K))
    order = np.argsort(rows_K)
    coarse_K = scores_K[order[np.searchsorted(rows_K, fine[1], sorter=order)]]
    return fine, expected_misses(coarse_K, fine[0], k)


def misses_of(dataset: LanceDataset, plan: Plan, k: int, query_D: Floats, own_id: int | None) -> float:
    """Estimate which share of the k best rows a plan misses, for a question that is a row of the table or none."""
    scores_K, rows_K = within_margin(plan, *candidates(dataset, plan, query_D, None))
    is_other_K = rows_K != (-1 if own_id is None else own_id)
    return _rank_all(dataset, plan, query_D, k, (scores_K[is_other_K], rows_K[is_other_K]))[1]


def candidates(
    dataset: LanceDataset, plan: Plan, query_D: Floats, where: str | None, *, is_refined: bool = True
) -> tuple[Floats, Positions]:
    """Return the cosines and row ids that the first stage finds, best first, through the index if there is one.

    With `is_refined`, what an index finds is ordered by true cosines, and not by its codes.
    """
    first = plan.stages[0]
    column = column_of(dataset, first.dims)
    nearest: dict[str, Any] = {"column": column, "q": cut(query_D, first.dims), "k": first.keep, "metric": "cosine"}
    if column == VECTOR:
        nearest |= {"q": query_D, "use_index": False}
    elif plan.probes:
        nearest |= {"minimum_nprobes": plan.probes} | ({"refine_factor": 1} if is_refined else {})
    scanner = dataset.scanner(columns=["_distance"], with_row_id=True, nearest=nearest, filter=where, prefilter=True)
    found = scanner.to_table()
    return 1 - found["_distance"].to_numpy(), row_ids(found)


def within_margin(plan: Plan, scores_K: Floats, rows_K: Positions) -> tuple[Floats, Positions]:
    """Return the candidates that are at most the plan's margin below the k-th best, k being that of the plan."""
    if plan.margin is None or len(rows_K) <= plan.k:
        return scores_K, rows_K
    looked_at = int((scores_K >= scores_K[plan.k - 1] - plan.margin).sum())
    return scores_K[:looked_at], rows_K[:looked_at]


def coarse_candidates(
    dataset: LanceDataset, plan: Plan, query_D: Floats, where: str | None = None, *, is_refined: bool = True
) -> tuple[Floats, Positions]:
    """Return the cosines and row ids that all stages but the last find, best first; `is_refined` as in `candidates`."""
    found = candidates(dataset, plan, query_D, where, is_refined=is_refined)
    return _narrow(dataset, plan, query_D, *within_margin(plan, *found))


def _narrow(
    dataset: LanceDataset, plan: Plan, query_D: Floats, scores: Floats, rows: Positions
) -> tuple[Floats, Positions]:
    """Rank candidates by the stages between the first and the last."""
    for stage in plan.stages[1:-1]:
        scores, rows = rank(dataset, stage, query_D, rows, stage.keep)
    return scores, rows


def rank(
    dataset: LanceDataset, stage: FunnelStage, query_D: Floats, rows_K: Positions, keep: int
) -> tuple[Floats, Positions]:
    """Compare rows at the dims of one stage; return the cosines and row ids of the `keep` best with a direction."""
    column = column_of(dataset, stage.dims)
    found = read_rows(dataset, rows_K, [column])
    x_KM = cut(to_numpy(found[column]).astype(np.float32), stage.dims)
    compared_K = have_direction(x_KM)
    scores = x_KM[compared_K] @ cut(query_D, stage.dims)
    best = np.argsort(-scores, kind="stable")[:keep]
    return scores[best], row_ids(found)[compared_K][best]


def column_of(dataset: LanceDataset, dim: int) -> str:
    """Return the column to read for a prefix of `dim` dims: its own where all rows have it, or the full vectors."""
    name = prefix_column(dim)
    return name if has_everywhere(dataset, name) else VECTOR
