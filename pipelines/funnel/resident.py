"""The first home of stage 0: codes and vectors in RAM, true to a version of the table.

Owns the match between positions in the FAISS index and rows of the table: rows deleted or rewritten since the codes
were made are masked, rows added or rewritten since are compared exactly, and when there are many of either the codes
are made anew. A search works on one immutable snapshot, so any number of threads may search while one refreshes.

Shapes: B queries, N coded vectors, T rows newer than the codes, D full width, K candidates.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from lance import LanceDataset

from pipelines.funnel.chain import Floats, Index, Positions
from pipelines.funnel.lake import Found, row_ids
from pipelines.funnel.plan import Explanation, Plan, StageReport
from pipelines.funnel.slices import Slices
from pipelines.matryoshka import unit
from pipelines.tables import to_numpy
from schemas.columns import VECTOR

Mask = npt.NDArray[np.bool_]
# Half-precision rows are unit length up to rounding; this many more than k are ranked again by their true cosine.
_SPARE = 8
_REBUILD_FRACTION = 0.1
_TAIL_ROWS = 10_000
_REMEMBERED_FILTERS = 16
_UPDATED = "_row_last_updated_at_version"


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """One version of a table in RAM.

    Attributes:
        dataset: That version.
        slices: Coded rows.
        row_ids_N: Their row ids.
        updated_N: Version in which each was last written.
        alive_N: Which of them are in the table as they were coded; None is all.
        tail_ids_T: Row ids of the rows written since.
        tail_TD: Their vectors.
        allowed: What filters were found to allow.
    """

    dataset: LanceDataset
    slices: Slices
    row_ids_N: Positions
    updated_N: npt.NDArray[np.int64]
    alive_N: Mask | None
    tail_ids_T: Positions
    tail_TD: npt.NDArray[np.float16]
    allowed: dict[str, tuple[Mask, Mask]] = field(default_factory=dict)


class ResidentIndex:
    """A funnel's stages in RAM."""

    def __init__(self, dataset: LanceDataset, plan: Plan, codebook: Sequence[Index]) -> None:
        """Encode every row of the table.

        Args:
            dataset: Version to load.
            plan: Stages.
            codebook: The plan's trained empty stages, without the last.
        """
        self.plan, self._codebook = plan, codebook
        self._refreshing = threading.Lock()
        self._snapshot = self._load(dataset)

    @property
    def version(self) -> int:
        """Version of the table that a search sees."""
        return int(self._snapshot.dataset.version)

    @property
    def dataset(self) -> LanceDataset:
        """The table at that version."""
        return self._snapshot.dataset

    def refresh(self, dataset: LanceDataset) -> None:
        """Bring what a search sees to another version of the table."""
        with self._refreshing:
            if dataset.version != self.version:
                self._snapshot = self._follow(self._snapshot, dataset)

    def everything(self) -> tuple[LanceDataset, Positions, npt.NDArray[np.float16]]:
        """Return the version that a search sees, with the row ids (N,) and full vectors (N, D) of all its rows."""
        now = self._snapshot
        alive = np.arange(len(now.row_ids_N)) if now.alive_N is None else np.flatnonzero(now.alive_N)
        ids, vectors = now.row_ids_N[alive], now.slices.vectors(alive)
        return now.dataset, np.concatenate([ids, now.tail_ids_T]), np.concatenate([vectors, now.tail_TD])

    def find(self, query_BD: Floats, k: int, keep: int | None = None, where: str | None = None) -> Found:
        """Return the k best rows of each query.

        Args:
            query_BD: float32 unit rows at full width.
            k: Results per query.
            keep: Candidates of the first stage, instead of the plan's.
            where: SQL; only rows that satisfy it are searched.
        """
        now = self._snapshot
        plan = self.plan.keeping(max(keep or self.plan.stages[0].keep, k))
        tail_ids_T, tail_TD = now.tail_ids_T, now.tail_TD
        if where is None:
            scores_BK, positions_BK = self._through_chain(now, plan, query_BD, k)
        else:
            allowed_N, allowed_T = self._allowed(now, where)
            tail_ids_T, tail_TD = tail_ids_T[allowed_T], tail_TD[allowed_T]
            scores_BK, positions_BK = self._each(now, plan, query_BD, k, allowed_N)
        rows_BK = np.where(positions_BK < 0, -1, now.row_ids_N[positions_BK])
        if len(tail_ids_T):
            tail_BT = query_BD @ unit(tail_TD.astype(np.float32)).T
            scores_BK = np.concatenate([scores_BK, tail_BT], axis=1)
            rows_BK = np.concatenate([rows_BK, np.broadcast_to(tail_ids_T, tail_BT.shape)], axis=1)
        order_BK = np.argsort(-scores_BK, axis=1, kind="stable")[:, :k]
        return Found(np.take_along_axis(scores_BK, order_BK, 1), np.take_along_axis(rows_BK, order_BK, 1), now.dataset)

    def explain(self, query_D: Floats, where: str | None, exact_us: float) -> Explanation:
        """Search the first stage alone, then all; what the whole takes longer is shared out over the later stages."""
        now, plan = self._snapshot, self.plan
        first, rows = plan.stages[0], len(now.row_ids_N)
        started = time.perf_counter()
        now.slices.candidates(plan, query_D[None])
        found = time.perf_counter()
        self.find(query_D[None], plan.k, where=where)
        done = time.perf_counter()
        compared = rows * plan.probes // plan.lists if plan.lists else rows
        seconds = [found - started, max(0.0, (done - found) - (found - started))]
        given = [compared, *(stage.keep for stage in plan.stages[:-1])]
        reports = [
            StageReport(
                dims=stage.dims,
                precision=stage.precision,
                compared=min(count, rows),
                kept=min(stage.keep, rows),
                bytes_read=min(count, rows) * stage.bytes_per_vector,
                requests=0,
                milliseconds=1e3 * (seconds[0] if stage is first else seconds[1] / (len(plan.stages) - 1)),
            )
            for count, stage in zip(given, plan.stages, strict=True)
        ]
        width = plan.stages[-1].dims
        return Explanation(stages=tuple(reports), exact_bytes=4 * width * rows, exact_milliseconds=exact_us / 1e3)

    def _through_chain(self, now: _Snapshot, plan: Plan, query_BD: Floats, k: int) -> tuple[Floats, Positions]:
        spare = k + _SPARE
        if now.alive_N is None:
            return now.slices.search(plan.keeping(max(plan.stages[0].keep, spare)), query_BD, spare)
        alive = int(now.alive_N.sum())
        scale = len(now.alive_N) / max(1, alive)
        wider = plan.keeping(math.ceil(max(plan.stages[0].keep, spare) * scale))
        scores_BK, positions_BK = now.slices.search(wider, query_BD, math.ceil(spare * scale) + _SPARE)
        is_alive = now.alive_N[positions_BK] & (positions_BK >= 0)
        scores_BK, positions_BK = np.where(is_alive, scores_BK, -np.inf), np.where(is_alive, positions_BK, -1)
        short_B = is_alive.sum(axis=1) < min(k, alive)
        if short_B.any():
            found = self._each(now, plan, query_BD[short_B], positions_BK.shape[1], now.alive_N)
            scores_BK[short_B], positions_BK[short_B] = found
        return scores_BK, positions_BK

    def _each(self, now: _Snapshot, plan: Plan, query_BD: Floats, k: int, allowed_N: Mask) -> tuple[Floats, Positions]:
        """Return scores and positions (B, k) among the allowed ones, best first, padded with -inf and -1."""
        scores_BK = np.full((len(query_BD), k), -np.inf, np.float32)
        positions_BK = np.full((len(query_BD), k), -1, np.int64)
        count = int(allowed_N.sum())
        keep = math.ceil(plan.stages[0].keep * 1.2 * len(allowed_N) / max(1, count))
        everything = np.flatnonzero(allowed_N) if 2 * keep >= count else None
        for row, query_D in enumerate(query_BD):
            among = everything
            if among is None:
                found = now.slices.candidates(plan.keeping(keep), query_D[None])[0]
                among = found[(found >= 0) & allowed_N[found]]
                if len(among) < min(k, count):
                    among = np.flatnonzero(allowed_N)
            scores = now.slices.scores(query_D, among)
            best = np.argsort(-scores, kind="stable")[:k]
            scores_BK[row, : len(best)], positions_BK[row, : len(best)] = scores[best], among[best]
        return scores_BK, positions_BK

    def _allowed(self, now: _Snapshot, where: str) -> tuple[Mask, Mask]:
        """Return which coded rows and which newer rows satisfy `where`; what it found is remembered."""
        known = now.allowed.get(where)
        if known is None:
            wanted = now.dataset.scanner(columns=["_rowid"], filter=where).to_table()["_rowid"].to_numpy()
            allowed_N = np.isin(now.row_ids_N, wanted)
            known = allowed_N if now.alive_N is None else allowed_N & now.alive_N, np.isin(now.tail_ids_T, wanted)
            if len(now.allowed) >= _REMEMBERED_FILTERS:
                now.allowed.clear()
            now.allowed[where] = known
        return known

    def _load(self, dataset: LanceDataset) -> _Snapshot:
        ids, updated = [np.empty(0, np.int64)], [np.empty(0, np.int64)]

        def blocks() -> Iterator[npt.NDArray[np.float16]]:
            for batch in dataset.scanner(columns=["_rowid", _UPDATED, VECTOR]).to_batches():
                ids.append(row_ids(batch))
                updated.append(batch[_UPDATED].to_numpy().astype(np.int64))
                yield to_numpy(batch[VECTOR])

        slices = Slices.build(self._codebook, blocks(), dataset.count_rows())
        none_TD = np.empty((0, self.plan.stages[-1].dims), np.float16)
        ids_N = np.concatenate(ids)
        return _Snapshot(dataset, slices, ids_N, np.concatenate(updated), None, np.empty(0, np.int64), none_TD)

    def _follow(self, old: _Snapshot, dataset: LanceDataset) -> _Snapshot:
        rows = dataset.scanner(columns=["_rowid", _UPDATED]).to_table()
        ids, updated = (rows[name].to_numpy().astype(np.int64) for name in ("_rowid", _UPDATED))
        order = np.argsort(old.row_ids_N)
        slot = np.searchsorted(old.row_ids_N, ids, sorter=order).clip(max=max(0, len(order) - 1))
        at = order[slot] if len(order) else np.zeros(len(ids), np.int64)
        same = (
            (old.row_ids_N[at] == ids) & (old.updated_N[at] == updated) if len(order) else np.zeros(len(ids), np.bool_)
        )
        alive_N = np.zeros(len(old.row_ids_N), np.bool_)
        alive_N[at[same]] = True
        fresh = ids[~same]
        limit = max(_TAIL_ROWS, int(len(alive_N) * _REBUILD_FRACTION))
        if len(fresh) > limit or (~alive_N).sum() > limit:
            return self._load(dataset)
        listed = ", ".join(map(str, fresh)) or "NULL"
        tail = dataset.scanner(columns=["_rowid", VECTOR], filter=f"_rowid IN ({listed})").to_table()
        mask = None if alive_N.all() else alive_N
        return replace(
            old, dataset=dataset, alive_N=mask, tail_ids_T=row_ids(tail), tail_TD=to_numpy(tail[VECTOR]), allowed={}
        )
