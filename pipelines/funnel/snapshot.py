"""Search one version of a table in RAM (homes `memory` and `codes`): filled stages, masked rows, and a tail of rows.

Owns the search: how many candidates are ranked, which of them count, and which queries are searched more widely. The
tuner measures its trials with it too, so a recall card speaks of the candidates that a search ranks. Owns no codes:
those are in `slices` (FAISS) or `torch_stages`. When the table changes, `memory` makes another snapshot. Immutable, so
any number of threads may search.

Shapes: B queries, N rows in the stages, T rows of the tail, D full width, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from lance import LanceDataset

from pipelines.funnel.faiss_stages import Positions
from pipelines.funnel.rerank import MAX_GATHERED, Counts, Found, Mask, rank_all, rerank, search_table
from pipelines.funnel.stage_index import StageIndex
from pipelines.funnel.widening import are_close, are_short, judges_codes
from pipelines.tables.rows import read_vectors
from pipelines.vectors.arrays import Floats, Halves
from pipelines.vectors.matryoshka import unit
from schemas.plans import Plan

# Half-precision rows have unit length only up to rounding. So this many more than k are ranked by their true cosine.
SPARE = 8
# Candidates of all queries that are held at once, before a filter.
MAX_CANDIDATES_HELD = 1 << 23
_CACHED_FILTERS = 16
# The best rows are spread unevenly over the rows that a filter allows, so ask for this much more.
_UNEVEN = 1.2


class _Ranked(NamedTuple):
    """Scores and positions (B, k), best first, -inf and -1 where there are fewer; and vectors compared (B,)."""

    scores_BK: Floats
    positions_BK: Positions
    compared_B: Counts


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One version of a table in RAM.

    Attributes:
        dataset: The version.
        stages: The filled stages.
        row_ids_N: Row ids of the rows in the stages.
        alive_N: Which of these have a direction and are still in the table unchanged; None: all.
        tail_ids_T: Row ids of the rows written since the stages were filled.
        tail_TD: Their vectors.
        allowed: Cached results of filters: masks (N,) and (T,) by SQL.
    """

    dataset: LanceDataset
    stages: StageIndex
    row_ids_N: Positions
    alive_N: Mask | None
    tail_ids_T: Positions
    tail_TD: Halves
    allowed: dict[str, tuple[Mask, Mask]] = field(default_factory=dict)

    def vectors(self, positions_K: Positions) -> Halves:
        """Gather full vectors (K, D) from RAM or from the table."""
        if self.stages.holds_vectors:
            return self.stages.vectors(positions_K)
        return read_vectors(self.dataset, self.row_ids_N[positions_K])

    @property
    def live_rows(self) -> int:
        """Number of rows of the stages that a search may find."""
        return len(self.row_ids_N) if self.alive_N is None else int(self.alive_N.sum())

    def find(
        self, query_BD: Floats, k: int, plan: Plan | None, where: str | None = None, max_held: int = MAX_CANDIDATES_HELD
    ) -> Found:
        """Return the k best rows of each query.

        Args:
            query_BD: float32 unit rows at full width.
            k: Results per query.
            plan: The plan to follow; None compares every row.
            where: SQL; only rows that satisfy it are searched.
            max_held: Candidates of all queries to hold at once, before a filter.
        """
        if plan is None and not self.stages.holds_vectors:
            return search_table(self.dataset, query_BD, k, where)
        if where is None:
            allowed_N, tail_ids_T, tail_TD = self.alive_N, self.tail_ids_T, self.tail_TD
        else:
            allowed_N, allowed_T = self.allowed_by(where)
            tail_ids_T, tail_TD = self.tail_ids_T[allowed_T], self.tail_TD[allowed_T]
        if plan is None:
            scores_BK, positions_BK, compared_B = self._rank_all(query_BD, k, allowed_N)
        elif where is None and self.stages.holds_vectors:
            scores_BK, positions_BK, compared_B = self._search_unfiltered(plan, query_BD, k, max_held)
        else:
            scores_BK, positions_BK, compared_B = self._search_allowed(plan, query_BD, k, allowed_N, max_held)
        rows_BK = positions_BK
        if len(self.row_ids_N):
            rows_BK = np.where(positions_BK < 0, -1, self.row_ids_N[positions_BK])
        if len(tail_ids_T):
            tail_BT = query_BD @ unit(tail_TD.astype(np.float32)).T
            scores_BK = np.concatenate([scores_BK, tail_BT], axis=1)
            rows_BK = np.concatenate([rows_BK, np.broadcast_to(tail_ids_T, tail_BT.shape)], axis=1)
        order_BK = np.argsort(-scores_BK, axis=1, kind="stable")[:, :k]
        scores_BK, rows_BK = np.take_along_axis(scores_BK, order_BK, 1), np.take_along_axis(rows_BK, order_BK, 1)
        return Found(scores_BK, rows_BK, self.dataset, compared_B + len(tail_ids_T))

    def allowed_by(self, where: str) -> tuple[Mask, Mask]:
        """Return which rows of the stages (N,) and of the tail (T,) satisfy `where`; cached."""
        masks = self.allowed.get(where)
        if masks is None:
            wanted = self.dataset.scanner(columns=["_rowid"], filter=where).to_table()["_rowid"].to_numpy()
            allowed_N = np.isin(self.row_ids_N, wanted)
            masks = allowed_N if self.alive_N is None else allowed_N & self.alive_N, np.isin(self.tail_ids_T, wanted)
            if len(self.allowed) >= _CACHED_FILTERS:
                self.allowed.clear()
            self.allowed[where] = masks
        return masks

    def _rank_all(self, query_BD: Floats, k: int, allowed_N: Mask | None) -> _Ranked:
        """Compare every allowed row of the stages at full width."""
        positions = np.arange(len(self.row_ids_N)) if allowed_N is None else np.flatnonzero(allowed_N)
        parts = (positions[start : start + MAX_GATHERED] for start in range(0, len(positions), MAX_GATHERED))
        found = rank_all(query_BD, ((part, self.vectors(part)) for part in parts), k)
        return _Ranked(*found, np.full(len(query_BD), len(positions), np.int64))

    def _search_unfiltered(self, plan: Plan, query_BD: Floats, k: int, max_held: int) -> _Ranked:
        """Search all stages in RAM; search more widely for queries whose candidates are masked or close together."""
        plan = plan.keeping(max(plan.candidates, k + SPARE))
        if self.alive_N is None and not plan.lists and plan.reach is None:
            return self._search_stages(plan, query_BD, k + SPARE)
        rows, live = len(self.row_ids_N), self.live_rows
        wider = plan.wider(rows / max(1, live), rows)
        scores_BK, positions_BK, compared_B = self._search_stages(wider, query_BD, wider.candidates)
        is_found = positions_BK >= 0
        is_live = is_found if self.alive_N is None else is_found & self.alive_N[positions_BK]
        scores_BK, positions_BK = np.where(is_live, scores_BK, -np.inf), np.where(is_live, positions_BK, -1)
        order_BK = np.argsort(-scores_BK, axis=1, kind="stable")
        scores_BK = np.take_along_axis(scores_BK, order_BK, 1)
        live_B, found_B = is_live.sum(axis=1), is_found.sum(axis=1)
        again_B = are_short(live_B, found_B, plan, k, live) | are_close(scores_BK, plan, live_B < found_B)
        scores_BK, positions_BK = scores_BK[:, :k], np.take_along_axis(positions_BK, order_BK[:, :k], 1)
        if again_B.any():
            found = self._search_allowed(plan, query_BD[again_B], scores_BK.shape[1], self.alive_N, max_held)
            scores_BK[again_B], positions_BK[again_B] = found.scores_BK, found.positions_BK
            compared_B[again_B] += found.compared_B
        return _Ranked(scores_BK, positions_BK, compared_B)

    def _search_stages(self, plan: Plan, query_BD: Floats, k: int) -> _Ranked:
        """Search all stages in RAM once."""
        compared_B = np.full(len(query_BD), self.stages.ranked(plan, k), np.int64)
        return _Ranked(*self.stages.search(plan, query_BD, k), compared_B)

    def _search_allowed(self, plan: Plan, query_BD: Floats, k: int, allowed_N: Mask | None, max_held: int) -> _Ranked:
        """Search among the allowed rows.

        Candidates come from a wider search that is filtered afterwards. A query is searched twice as widely as long as
        fewer candidates pass than the plan keeps, or those that pass lie close together. Where few rows are allowed,
        all of them are ranked.
        """
        rows = len(self.row_ids_N)
        count = rows if allowed_N is None else int(allowed_N.sum())
        plan = plan.keeping(max(plan.candidates, k + SPARE))
        wider = first = among(plan, rows, count)
        scores_BK = np.full((len(query_BD), k), -np.inf, np.float32)
        positions_BK = np.full((len(query_BD), k), -1, np.int64)
        compared_B = np.zeros(len(query_BD), np.int64)
        left = np.arange(len(query_BD))
        while len(left) and 2 * wider.candidates < count:
            again: list[int] = []
            at_once = max(1, max_held // wider.candidates)
            for start in range(0, len(left), at_once):
                part = left[start : start + at_once]
                coarse_PK, found_PK = self.stages.candidates(wider.ranking_all(), query_BD[part])
                is_live_PK = found_PK >= 0 if allowed_N is None else (found_PK >= 0) & allowed_N[found_PK]
                live_P, counts_P = is_live_PK.sum(axis=1), (found_PK >= 0).sum(axis=1)
                among_P = [found[live][: wider.candidates] for found, live in zip(found_PK, is_live_PK, strict=True)]
                scores_PK, positions_PK = rerank(query_BD[part], among_P, self.vectors, max(k, *map(len, among_P)))
                judged_PK = scores_PK
                if judges_codes(plan):
                    judged_PK = -np.sort(np.where(is_live_PK, -coarse_PK, np.inf), axis=1)
                is_suspect_P = (live_P < counts_P) | (wider is not first)
                again_P = are_short(live_P, counts_P, plan, k, count) | are_close(judged_PK, plan, is_suspect_P)
                scores_BK[part], positions_BK[part] = scores_PK[:, :k], positions_PK[:, :k]
                compared_B[part] += [*map(len, among_P)]
                again += part[again_P].tolist()
            left, wider = np.array(again, np.int64), wider.wider(2, rows)
        if len(left):
            scores_BK[left], positions_BK[left], compared = self._rank_all(query_BD[left], k, allowed_N)
            compared_B[left] += compared
        return _Ranked(scores_BK, positions_BK, compared_B)


def among(plan: Plan, rows: int, allowed: int) -> Plan:
    """Return the plan that finds enough candidates among the allowed rows."""
    return plan if allowed == rows else plan.wider(_UNEVEN * rows / max(1, allowed), rows)
