"""Search a funnel whose first stages are in RAM (homes `memory` and `codes`), for one version of its table at a time.

Owns the match between positions in the stages and rows of the table. When the table changes, rows that were deleted or
rewritten are masked, and rows that were added or rewritten (the tail) are compared exactly. When there are many of
either, the stages are filled anew. A search works on one immutable snapshot, which owns the search itself (`snapshot`),
so any number of threads may search while one refreshes.

Shapes: B queries, N rows in the stages, T rows of the tail, D full width.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from lance import LanceDataset

from pipelines.funnel.faiss_stages import Positions
from pipelines.funnel.rerank import Found, Mask
from pipelines.funnel.snapshot import MAX_CANDIDATES_HELD, Snapshot, among
from pipelines.funnel.stage_index import Fill
from pipelines.tables.rows import ROW_ID, read_rows, row_ids, scan_vectors
from pipelines.vectors.arrays import Floats, Halves, to_numpy
from pipelines.vectors.matryoshka import have_direction
from schemas.columns import VECTOR
from schemas.explanations import Explanation, StageReport
from schemas.plans import Plan

# Changed rows that a refresh accepts before it fills the stages anew: 10,000, or a tenth of the table.
_REBUILD_FRACTION = 0.1
_TAIL_ROWS = 10_000
# A vector's row id and the version it was last written in.
_IDENTITY_BYTES = 16
_UPDATED = "_row_last_updated_at_version"


@dataclass(frozen=True, eq=False, kw_only=True)
class _Followed(Snapshot):
    """A snapshot that knows how to follow its table.

    Attributes:
        updated_N: Version in which each of the rows in the stages was last written.
        usable_N: Which of these have a direction, and may be found at all.
    """

    updated_N: npt.NDArray[np.int64]
    usable_N: Mask


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
        return self._snapshot.find(query_BD, k, plan, where, self._max_held)

    def explain(self, query_D: Floats, where: str | None, exact_us: float) -> Explanation:
        """Search once and report each stage.

        FAISS searches a chain of stages as a whole. So this searches the first stage, then the first two, and so on;
        the time of a stage is what it adds. Codes of all rows are compared before a filter; where it leaves few rows,
        these are ranked at once, and no codes are compared.
        """
        now, plan = self._snapshot, self.plan
        allowed_N, count, tail = now.alive_N, now.live_rows, len(now.tail_ids_T)
        if where is not None:
            allowed_N, allowed_T = now.allowed_by(where)
            count, tail = int(allowed_N.sum()), int(allowed_T.sum())
        wider = among(plan, len(now.row_ids_N), count)
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

    def _load(self, dataset: LanceDataset) -> _Followed:
        ids, updated, usable = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.bool_)]

        def blocks() -> Iterator[Halves]:
            for batch, block_BD in scan_vectors(dataset, [ROW_ID, _UPDATED]):
                ids.append(row_ids(batch))
                updated.append(batch[_UPDATED].to_numpy().astype(np.int64))
                usable.append(have_direction(block_BD))
                yield block_BD if usable[-1].all() else np.where(usable[-1][:, None], block_BD, np.float16(0))

        stages = self._fill(blocks(), dataset.count_rows())
        none_TD = np.empty((0, self.plan.stages[-1].dims), np.float16)
        usable_N = np.concatenate(usable)
        return _Followed(
            dataset,
            stages,
            np.concatenate(ids),
            _mask_of(usable_N),
            np.empty(0, np.int64),
            none_TD,
            updated_N=np.concatenate(updated),
            usable_N=usable_N,
        )

    def _follow(self, old: _Followed, dataset: LanceDataset) -> _Followed:
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


def _positions_of(ids: Positions, row_ids_N: Positions) -> tuple[Positions, Mask]:
    """Return where each id stands in `row_ids_N`, and whether it stands there at all."""
    if not len(row_ids_N):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    order = np.argsort(row_ids_N)
    place = np.searchsorted(row_ids_N, ids, sorter=order).clip(max=len(order) - 1)
    position = order[place]
    return position, row_ids_N[position] == ids
