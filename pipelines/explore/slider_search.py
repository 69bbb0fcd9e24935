"""Answer one question at any dims and any number of candidates, with the recall, the time and the bytes it takes.

Owns the vectors of a table in memory, and the search in two stages that the page's sliders set: the first compares
prefixes, the second ranks the candidates by their full vectors. Owns no tuned funnel: that is `pipelines.funnel`.

Shapes: N rows in memory, D full width, K results, C candidates.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.funnel.ground_truth import GroundTruth, exact_neighbours
from pipelines.tables.rows import ROW_ID, row_ids, scan_small_batches
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats, RowIds, to_numpy
from pipelines.vectors.matryoshka import cut, have_direction, prefix, unit
from schemas.columns import VECTOR

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

_BATCH_ROWS = 8_192
# Bytes of a number in the table.
_STORED_BYTES = 2
_SAMPLE_SEED = 0
_MANY_CANDIDATES = 0.15  # share of the rows, measured on 100,000 rows of 768 dims


@dataclass(frozen=True, eq=False)
class Answer:
    """What a search in two stages found, and what it took.

    Attributes:
        rows_K: Row ids, best first.
        scores_K: Their cosines at full width, float32.
        is_right_K: Whether each row is among the exact nearest, or ties with the last of them.
        recall: Share of the exact nearest rows that were found.
        milliseconds: Time of this search, without the encoder.
        bytes_read: Bytes of stored vectors that were compared.
    """

    rows_K: RowIds
    scores_K: Floats
    is_right_K: Mask
    recall: float
    milliseconds: float
    bytes_read: int


class SliderSearch:
    """The vectors of a table, or of a sample of it, in memory.

    Attributes:
        dims: The ladder of the table's space, ascending.
        rows_in_table: Rows of the table. Those without a direction are not searched.
        is_sample: Whether the memory holds only a sample of them.
    """

    def __init__(self, table: VectorTable, max_bytes: int) -> None:
        """Read the vectors, as float32.

        Args:
            table: The table.
            max_bytes: Memory for the vectors. Of a larger table, a random sample of the rows is read.
        """
        self.dims = table.space.ladder.dims
        self.rows_in_table = table.dataset.count_rows()
        width = table.space.ladder.width
        fit = max(1, max_bytes // (4 * (width + len(self.dims))))
        self._rows_N, self._x_ND = _read(table, fit)
        self.is_sample = len(self._rows_N) < self.rows_in_table
        if not (usable_N := have_direction(self._x_ND)).all():  # what another tool has written
            self._rows_N, self._x_ND = self._rows_N[usable_N], self._x_ND[usable_N]
        self._norms = {dim: _prefix_norms(self._x_ND, dim) for dim in self.dims}
        self._of_row = {int(row): place for place, row in enumerate(self._rows_N)}

    @property
    def rows(self) -> int:
        """Number of rows in memory."""
        return len(self._rows_N)

    def vector(self, row: int) -> Floats | None:
        """Return the vector (D,) of a row id, or None if it is not in memory."""
        place = self._of_row.get(row)
        return None if place is None else self._x_ND[place]

    def first(self, k: int, mask_N: Mask | None) -> RowIds:
        """Return the row ids (at most k,) of the first rows in memory that are in the mask."""
        rows_N = self._rows_N if mask_N is None else self._rows_N[mask_N]
        return rows_N[:k]

    def mask(self, matching_rows: RowIds) -> Mask:
        """Return which rows in memory (N,) are among the row ids."""
        mask_N: Mask = np.isin(self._rows_N, matching_rows)
        return mask_N

    def exact(self, query_D: Floats, k: int, mask_N: Mask | None) -> GroundTruth | None:
        """Find the exact k nearest rows of those in the mask; None if it holds fewer than one."""
        live = self.rows if mask_N is None else int(mask_N.sum())
        if live < 1:
            return None
        k = min(k, live)
        return exact_neighbours(lambda: self._blocks(mask_N), query_D[None], [k])[k]

    def find(
        self, query_D: Floats, dim: int, candidates: int, truth: GroundTruth | None, mask_N: Mask | None = None
    ) -> Answer:
        """Rank the `candidates` rows whose prefixes are nearest by their full vectors, and return the k best.

        Args:
            query_D: Unit query (D,).
            dim: A dim of the ladder.
            candidates: Rows that the first stage keeps; at least k are.
            truth: The exact neighbours, from `exact`; it says k.
            mask_N: Rows to search; None is all.
        """
        if truth is None:
            nothing = np.empty(0, np.float32)
            return Answer(np.empty(0, np.int64), nothing, np.empty(0, np.bool_), 1.0, 0.0, 0)
        began = time.perf_counter()
        scores_N = prefix(self._x_ND, dim) @ cut(query_D, dim)
        scores_N *= self._norms[dim]
        if mask_N is not None:
            scores_N[~mask_N] = -np.inf
        live = self.rows if mask_N is None else int(mask_N.sum())
        kept = min(max(candidates, truth.k), live)
        places_C = np.argpartition(scores_N, self.rows - kept)[self.rows - kept :]
        full_C = scores_N[places_C] if dim == self.dims[-1] else self._full_scores(places_C, query_D)
        best_K = np.lexsort((places_C, -full_C))[: truth.k]
        milliseconds = 1000 * (time.perf_counter() - began)
        rows_K, scores_K = self._rows_N[places_C[best_K]], full_C[best_K]
        ranks_1K = truth.ranks(rows_K[None])
        is_right_K = np.isin(np.arange(len(rows_K)), ranks_1K[0])
        recall = float(truth.recall(ranks_1K, len(rows_K))[0])
        width = self._x_ND.shape[1]
        second = 0 if dim == width else kept * width
        return Answer(rows_K, scores_K, is_right_K, recall, milliseconds, _STORED_BYTES * (live * dim + second))

    def _full_scores(self, places_C: Places, query_D: Floats) -> Floats:
        """Return the cosines of candidates (C,); of many, all rows are multiplied, which is quicker than a copy."""
        if len(places_C) > self.rows * _MANY_CANDIDATES:
            return (self._x_ND @ query_D)[places_C]
        return self._x_ND[places_C] @ query_D

    def _blocks(self, mask_N: Mask | None) -> Iterator[tuple[RowIds, Floats]]:
        for start in range(0, self.rows, _BATCH_ROWS):
            part = slice(start, start + _BATCH_ROWS)
            chosen = slice(None) if mask_N is None else mask_N[part]
            yield self._rows_N[part][chosen], self._x_ND[part][chosen]


def _read(table: VectorTable, most: int) -> tuple[RowIds, Floats]:
    """Read row ids (N,) and float32 unit vectors (N, D) of at most `most` rows, chosen at random."""
    rows, width = table.dataset.count_rows(), table.space.ladder.width
    chosen_N = np.arange(rows)
    if rows > most:
        chosen_N = np.sort(np.random.default_rng(_SAMPLE_SEED).choice(rows, most, replace=False))
    ids_N, x_ND = np.empty(len(chosen_N), np.int64), np.empty((len(chosen_N), width), np.float32)
    at = filled = 0
    for batch in scan_small_batches(table.dataset, [ROW_ID, VECTOR], _BATCH_ROWS):
        end = int(np.searchsorted(chosen_N, at + batch.num_rows))
        places = chosen_N[filled:end] - at
        ids_N[filled:end] = row_ids(batch)[places]
        stored = batch.column(batch.schema.get_field_index(VECTOR)).take(pa.array(places))
        x_ND[filled:end] = unit(to_numpy(stored).astype(np.float32))
        at, filled = at + batch.num_rows, end
    return ids_N[:filled], x_ND[:filled]


def _prefix_norms(x_ND: Floats, dim: int) -> Floats:
    """Return what each prefix is multiplied by to have unit length (N,); 0 for a prefix of zeros."""
    lengths_N = np.linalg.norm(prefix(x_ND, dim), axis=1)
    scales_N: Floats = np.divide(1.0, lengths_N, out=np.zeros_like(lengths_N), where=lengths_N > 0)
    return scales_N
