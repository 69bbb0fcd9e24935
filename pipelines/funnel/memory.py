"""Search a funnel whose first stages are in RAM (homes `memory` and `codes`), for one version of its table at a time.

Owns the match between positions in the stages and rows of the table. When the table changes, rows that were deleted or
rewritten are masked, and rows that were added or rewritten (the tail) are compared exactly. When there are many of
either, the stages are filled anew. A search works on one immutable snapshot, so any number of threads may search while
one refreshes. Owns no codes: those are in `slices` (FAISS) or `torch_stages`.

Shapes: B queries, N rows in the stages, T rows of the tail, D full width, K candidates.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from lance import LanceDataset

from pipelines.funnel.faiss_stages import Positions
from pipelines.funnel.rerank import MAX_GATHERED, Found, Mask, rank_all, rerank, search_table
from pipelines.funnel.stage_index import Fill, StageIndex
from pipelines.funnel.widening import are_close, are_short, judges_codes
from pipelines.tables.rows import ROW_ID, read_rows, read_vectors, row_ids, scan_vectors
from pipelines.vectors.arrays import Floats, Halves, to_numpy
from pipelines.vectors.matryoshka import have_direction, unit
from schemas.columns import VECTOR
from schemas.explanations import Explanation, StageReport
from schemas.plans import Plan

# Half-precision rows have unit length only up to rounding. So this many more than k are ranked by their true cosine.
SPARE = 8
# Changed rows that a refresh accepts before it fills the stages anew: 10,000, or a tenth of the table.
_REBUILD_FRACTION = 0.1
_TAIL_ROWS = 10_000
_CACHED_FILTERS = 16
# A vector's row id and the version it was last written in.
_IDENTITY_BYTES = 16
# Candidates of all queries that are held at once, before a filter.
MAX_CANDIDATES_HELD = 1 << 23
# The best rows are spread unevenly over the rows that a filter allows, so ask for this much more.
_UNEVEN = 1.2
_UPDATED = "_row_last_updated_at_version"


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """One version of a table in RAM.

    Attributes:
        dataset: The version.
        stages: The filled stages.
        row_ids_N: Row ids of the rows in the stages.
        updated_N: Version in which each of these was last written.
        usable_N: Which of these have a direction, and may be found at all.
        alive_N: Which of these are also still in the table unchanged; None: all rows of the stages.
        tail_ids_T: Row ids of the rows written since the stages were filled.
        tail_TD: Their vectors.
        allowed: Cached results of filters: masks (N,) and (T,) by SQL.
    """

    dataset: LanceDataset
    stages: StageIndex
    row_ids_N: Positions
    updated_N: npt.NDArray[np.int64]
    usable_N: Mask
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
        """Number of rows of the stages that are still in the table unchanged."""
        return len(self.row_ids_N) if self.alive_N is None else int(self.alive_N.sum())

    def rank_all(self, query_BD: Floats, k: int, allowed_N: Mask | None) -> tuple[Floats, Positions]:
        """Compare every allowed row of the stages at full width; return scores and positions (B, k)."""
        positions = np.arange(len(self.row_ids_N)) if allowed_N is None else np.flatnonzero(allowed_N)
        parts = (positions[start : start + MAX_GATHERED] for start in range(0, len(positions), MAX_GATHERED))
        return rank_all(query_BD, ((part, self.vectors(part)) for part in parts), k)


class MemoryIndex:
    """A funnel's stages in RAM, kept up to date with the table."""

    def __init__(
        self, dataset: LanceDataset, plan: Plan, fill: Fill, max_candidates_held: int = MAX_CANDIDATES_HELD
    ) -> None:
        """Fill the stages with every row of the table.

        Args:
            dataset: Version to load.
            plan: The funnel's plan.
            fill: Makes filled stages of blocks of float16 unit rows (B, D) and their total number.
            max_candidates_held: Candidates of all queries to hold at once, before a filter.
        """
        self.plan, self._fill, self._max_held = plan, fill, max_candidates_held
        self._refreshing = threading.Lock()
        self._snapshot = self._load(dataset)

    @property
    def dataset(self) -> LanceDataset:
        """Version of the table that a search sees."""
        return self._snapshot.dataset

    @property
    def version(self) -> int:
        """Number of that version."""
        return int(self.dataset.version)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of RAM that a vector takes, with its row id and version."""
        return self._snapshot.stages.bytes_per_vector + _IDENTITY_BYTES

    def refresh(self, dataset: LanceDataset) -> None:
        """Load another version of the table."""
        with self._refreshing:
            if dataset.version != self.version:
                self._snapshot = self._follow(self._snapshot, dataset)

    def all_rows(self) -> tuple[LanceDataset, Positions, Halves]:
        """Return the version that a search sees, with the row ids (N,) and full vectors (N, D) of all its rows."""
        now = self._snapshot
        alive = np.arange(len(now.row_ids_N)) if now.alive_N is None else np.flatnonzero(now.alive_N)
        ids_N = np.concatenate([now.row_ids_N[alive], now.tail_ids_T])
        return now.dataset, ids_N, np.concatenate([now.vectors(alive), now.tail_TD])

    def find(self, query_BD: Floats, k: int, plan: Plan | None, where: str | None = None) -> Found:
        """Return the k best rows of each query.

        Args:
            query_BD: float32 unit rows at full width.
            k: Results per query.
            plan: The plan to follow; None compares every row.
            where: SQL; only rows that satisfy it are searched.
        """
        now = self._snapshot
        if plan is None and not now.stages.holds_vectors:
            return search_table(now.dataset, query_BD, k, where)
        if where is None:
            allowed_N, tail_ids_T, tail_TD = now.alive_N, now.tail_ids_T, now.tail_TD
        else:
            allowed_N, allowed_T = self._allowed(now, where)
            tail_ids_T, tail_TD = now.tail_ids_T[allowed_T], now.tail_TD[allowed_T]
        if plan is None:
            scores_BK, positions_BK = now.rank_all(query_BD, k, allowed_N)
        elif where is None and now.stages.holds_vectors:
            scores_BK, positions_BK = self._search_unfiltered(now, plan, query_BD, k)
        else:
            scores_BK, positions_BK = self._search_allowed(now, plan, query_BD, k, allowed_N)
        rows_BK = np.where(positions_BK < 0, -1, now.row_ids_N[positions_BK]) if len(now.row_ids_N) else positions_BK
        if len(tail_ids_T):
            tail_BT = query_BD @ unit(tail_TD.astype(np.float32)).T
            scores_BK = np.concatenate([scores_BK, tail_BT], axis=1)
            rows_BK = np.concatenate([rows_BK, np.broadcast_to(tail_ids_T, tail_BT.shape)], axis=1)
        order_BK = np.argsort(-scores_BK, axis=1, kind="stable")[:, :k]
        return Found(np.take_along_axis(scores_BK, order_BK, 1), np.take_along_axis(rows_BK, order_BK, 1), now.dataset)

    def explain(self, query_D: Floats, where: str | None, exact_us: float) -> Explanation:
        """Search once and report each stage.

        FAISS searches a chain of stages as a whole. So this searches the first stage, then the first two, and so on;
        the time of a stage is what it adds. Codes of all rows are compared before a filter; where it leaves few rows,
        these are ranked at once, and no codes are compared.
        """
        now, plan = self._snapshot, self.plan
        allowed_N, count, tail = now.alive_N, now.live_rows, len(now.tail_ids_T)
        if where is not None:
            allowed_N, allowed_T = self._allowed(now, where)
            count, tail = int(allowed_N.sum()), int(allowed_T.sum())
        wider = _among(plan, len(now.row_ids_N), count)
        is_coarse = where is None or 2 * wider.candidates < count
        reports: list[StageReport] = []
        kept, passed = now.live_rows * wider.probes // plan.lists if plan.lists else now.live_rows, 0.0
        for number, stage in enumerate(plan.stages):
            now.dataset.io_stats_incremental()
            started, compared, is_last = time.perf_counter(), kept, number + 1 == len(plan.stages)
            if is_last:
                self.find(query_D[None], plan.k, plan, where)
                compared, kept = kept + tail, min(stage.keep, kept + tail)
            elif is_coarse:
                found_K = now.stages.candidates(wider, query_D[None], number + 1)[1][0]
                kept = int(((found_K >= 0) & (True if allowed_N is None else allowed_N[found_K])).sum())
            else:
                compared, kept = 0, count
            seconds, asked = time.perf_counter() - started, now.dataset.io_stats_incremental()
            reports.append(
                StageReport(
                    dims=stage.dims,
                    precision=stage.precision,
                    compared=compared,
                    kept=kept,
                    bytes_read=asked.read_bytes or compared * stage.bytes_per_vector,
                    requests=asked.read_iops,
                    milliseconds=1e3 * max(0.0, seconds - passed),
                )
            )
            passed = seconds
        exact_bytes = 4 * plan.stages[-1].dims * (count + tail)
        return Explanation(stages=tuple(reports), exact_bytes=exact_bytes, exact_milliseconds=exact_us / 1e3)

    def _search_unfiltered(self, now: _Snapshot, plan: Plan, query_BD: Floats, k: int) -> tuple[Floats, Positions]:
        """Search all stages in RAM; search more widely for queries whose candidates are masked or close together."""
        plan = plan.keeping(max(plan.candidates, k + SPARE))
        if now.alive_N is None and not plan.lists and plan.reach is None:
            return now.stages.search(plan, query_BD, k + SPARE)
        rows, live = len(now.row_ids_N), now.live_rows
        wider = plan.wider(rows / max(1, live), rows)
        scores_BK, positions_BK = now.stages.search(wider, query_BD, wider.candidates)
        is_found = positions_BK >= 0
        is_live = is_found if now.alive_N is None else is_found & now.alive_N[positions_BK]
        scores_BK, positions_BK = np.where(is_live, scores_BK, -np.inf), np.where(is_live, positions_BK, -1)
        order_BK = np.argsort(-scores_BK, axis=1, kind="stable")
        scores_BK = np.take_along_axis(scores_BK, order_BK, 1)
        live_B, found_B = is_live.sum(axis=1), is_found.sum(axis=1)
        again_B = are_short(live_B, found_B, plan, k, live) | are_close(scores_BK, plan, live_B < found_B)
        scores_BK, positions_BK = scores_BK[:, :k], np.take_along_axis(positions_BK, order_BK[:, :k], 1)
        if again_B.any():
            found = self._search_allowed(now, plan, query_BD[again_B], scores_BK.shape[1], now.alive_N)
            scores_BK[again_B], positions_BK[again_B] = found
        return scores_BK, positions_BK

    def _search_allowed(
        self, now: _Snapshot, plan: Plan, query_BD: Floats, k: int, allowed_N: Mask | None
    ) -> tuple[Floats, Positions]:
        """Return scores and positions (B, k) among the allowed rows, best first; -inf and -1 where there are fewer.

        Candidates come from a wider search that is filtered afterwards. A query is searched twice as widely as long as
        fewer candidates pass than the plan keeps, or those that pass lie close together. Where few rows are allowed,
        all of them are ranked.
        """
        rows = len(now.row_ids_N)
        count = rows if allowed_N is None else int(allowed_N.sum())
        plan = plan.keeping(max(plan.candidates, k + SPARE))
        wider = first = _among(plan, rows, count)
        scores_BK = np.full((len(query_BD), k), -np.inf, np.float32)
        positions_BK = np.full((len(query_BD), k), -1, np.int64)
        left = np.arange(len(query_BD))
        while len(left) and 2 * wider.candidates < count:
            again: list[int] = []
            at_once = max(1, self._max_held // wider.candidates)
            for start in range(0, len(left), at_once):
                part = left[start : start + at_once]
                coarse_PK, found_PK = now.stages.candidates(wider.ranking_all(), query_BD[part])
                is_live_PK = found_PK >= 0 if allowed_N is None else (found_PK >= 0) & allowed_N[found_PK]
                live_P, counts_P = is_live_PK.sum(axis=1), (found_PK >= 0).sum(axis=1)
                among_P = [found[live][: wider.candidates] for found, live in zip(found_PK, is_live_PK, strict=True)]
                scores_PK, positions_PK = rerank(query_BD[part], among_P, now.vectors, max(k, *map(len, among_P)))
                judged_PK = scores_PK
                if judges_codes(plan):
                    judged_PK = -np.sort(np.where(is_live_PK, -coarse_PK, np.inf), axis=1)
                is_suspect_P = (live_P < counts_P) | (wider is not first)
                again_P = are_short(live_P, counts_P, plan, k, count) | are_close(judged_PK, plan, is_suspect_P)
                scores_BK[part], positions_BK[part] = scores_PK[:, :k], positions_PK[:, :k]
                again += part[again_P].tolist()
            left, wider = np.array(again, np.int64), wider.wider(2, rows)
        if len(left):
            scores_BK[left], positions_BK[left] = now.rank_all(query_BD[left], k, allowed_N)
        return scores_BK, positions_BK

    def _allowed(self, now: _Snapshot, where: str) -> tuple[Mask, Mask]:
        """Return which rows of the stages (N,) and of the tail (T,) satisfy `where`; cached."""
        masks = now.allowed.get(where)
        if masks is None:
            wanted = now.dataset.scanner(columns=["_rowid"], filter=where).to_table()["_rowid"].to_numpy()
            allowed_N = np.isin(now.row_ids_N, wanted)
            masks = allowed_N if now.alive_N is None else allowed_N & now.alive_N, np.isin(now.tail_ids_T, wanted)
            if len(now.allowed) >= _CACHED_FILTERS:
                now.allowed.clear()
            now.allowed[where] = masks
        return masks

    def _load(self, dataset: LanceDataset) -> _Snapshot:
        ids, updated, usable = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.bool_)]

        def blocks() -> Iterator[Halves]:
            for batch, block_BD in scan_vectors(dataset, [ROW_ID, _UPDATED]):
                ids.append(row_ids(batch))
                updated.append(batch[_UPDATED].to_numpy().astype(np.int64))
                usable.append(have_direction(block_BD))
                yield block_BD if usable[-1].all() else np.where(usable[-1][:, None], block_BD, np.float16(0))

        stages = self._fill(blocks(), dataset.count_rows())
        none_TD = np.empty((0, self.plan.stages[-1].dims), np.float16)
        known = (np.concatenate(ids), np.concatenate(updated), usable_N := np.concatenate(usable))
        return _Snapshot(dataset, stages, *known, _mask_of(usable_N), np.empty(0, np.int64), none_TD)

    def _follow(self, old: _Snapshot, dataset: LanceDataset) -> _Snapshot:
        """Return the snapshot of another version: mask what is gone and read the tail, or fill anew."""
        rows = dataset.scanner(columns=["_rowid", _UPDATED]).to_table()
        ids, updated = (rows[name].to_numpy().astype(np.int64) for name in ("_rowid", _UPDATED))
        position, is_known = _positions_of(ids, old.row_ids_N)
        is_same = is_known & (old.updated_N[position] == updated) if len(old.row_ids_N) else is_known
        alive_N = np.zeros(len(old.row_ids_N), np.bool_)
        alive_N[position[is_same]] = True
        tail_ids = ids[~is_same]
        if max(len(tail_ids), (~alive_N).sum()) > max(_TAIL_ROWS, int(len(alive_N) * _REBUILD_FRACTION)):
            return self._load(dataset)
        tail = read_rows(dataset, tail_ids, [VECTOR])
        tail_TD = to_numpy(tail[VECTOR])
        has_direction_T = have_direction(tail_TD)
        return replace(
            old,
            dataset=dataset,
            alive_N=_mask_of(alive_N & old.usable_N),
            tail_ids_T=row_ids(tail)[has_direction_T],
            tail_TD=tail_TD[has_direction_T],
            allowed={},
        )


def _mask_of(is_alive_N: Mask) -> Mask | None:
    return None if is_alive_N.all() else is_alive_N


def _among(plan: Plan, rows: int, allowed: int) -> Plan:
    """Return the plan that finds enough candidates among the allowed rows."""
    return plan if allowed == rows else plan.wider(_UNEVEN * rows / max(1, allowed), rows)


def _positions_of(ids: Positions, row_ids_N: Positions) -> tuple[Positions, Mask]:
    """Return where each id stands in `row_ids_N`, and whether it stands there at all."""
    if not len(row_ids_N):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    order = np.argsort(row_ids_N)
    place = np.searchsorted(row_ids_N, ids, sorter=order).clip(max=len(order) - 1)
    position = order[place]
    return position, row_ids_N[position] == ids
