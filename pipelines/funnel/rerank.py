"""Rank by full vectors: the candidates of each query, the last stage of a funnel in RAM, or every row.

Owns the ranking and its memory bound. The vectors come from RAM or from the table, through a function.

Shapes: B queries, K candidates, U distinct candidates, D full width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance import LanceDataset

from pipelines.funnel.faiss_stages import Positions
from pipelines.shortlist.exact import ExactSearch
from pipelines.tables.rows import ROW_ID, places_of, read_rows, row_ids, scan_vectors
from pipelines.vectors.arrays import Floats, Halves
from pipelines.vectors.matryoshka import unit

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Vectors = Callable[[Positions], Halves]

MAX_GATHERED = 65_536


@dataclass(frozen=True, eq=False)
class Found:
    """Hold the result of a search.

    Attributes:
        scores_BK: True cosines, float32, best first; -inf where a query has fewer than K rows.
        rows_BK: Row ids; -1 where a query has fewer than K rows.
        dataset: The version of the table that was searched.
        compared_B: Full vectors that each query was compared with.
    """

    scores_BK: Floats
    rows_BK: Positions
    dataset: LanceDataset
    compared_B: Counts

    @property
    def fewest(self) -> int:
        """Rows of the query that has the fewest."""
        return int((self.rows_BK >= 0).sum(axis=1).min(initial=self.rows_BK.shape[1]))

    def read(self, wanted: Sequence[str], skip: int | None = None) -> pa.Table:
        """Read the columns `query, <wanted>, score` of the rows but `skip`, by query, best first, ties by id."""
        query_F, place_F = np.nonzero((self.rows_BK >= 0) & (self.rows_BK != (-1 if skip is None else skip)))
        rows_F = self.rows_BK[query_F, place_F]
        names = list(dict.fromkeys(["id", *wanted]))
        read = read_rows(self.dataset, np.unique(rows_F), names)
        rows = read.select(names).take(places_of(read, rows_F))
        rows = rows.append_column("score", pa.array(self.scores_BK[query_F, place_F], pa.float32()))
        rows = rows.add_column(0, "query", pa.array(query_F, pa.int64()))
        rows = rows.sort_by([("query", "ascending"), ("score", "descending"), ("id", "ascending")])
        return rows.select(["query", *wanted, "score"])


def rerank(
    query_BD: Floats,
    candidates_B: Sequence[Positions],
    vectors: Vectors,
    k: int,
    max_gathered: int = MAX_GATHERED,
) -> tuple[Floats, Positions]:
    """Return the true cosines and positions (B, k) of each query's best candidates.

    A vector that several queries share is gathered once for all of them.

    Args:
        query_BD: float32 unit rows.
        candidates_B: Distinct positions to rank, for each query.
        vectors: Gathers the vectors (K, D) at some positions.
        k: Results per query; -inf and -1 where there are fewer candidates.
        max_gathered: Vectors to gather at once, unless one query alone has more.
    """
    scores_BK = np.full((len(query_BD), k), -np.inf, np.float32)
    positions_BK = np.full((len(query_BD), k), -1, np.int64)
    for queries in _query_groups(candidates_B, max_gathered):
        wanted_U = np.unique(np.concatenate([candidates_B[query] for query in queries]))
        x_UD = unit(vectors(wanted_U).astype(np.float32))
        for query in queries:
            candidates = candidates_B[query]
            scores = x_UD[np.searchsorted(wanted_U, candidates)] @ query_BD[query]
            best = np.argsort(-scores, kind="stable")[:k]
            scores_BK[query, : len(best)], positions_BK[query, : len(best)] = scores[best], candidates[best]
    return scores_BK, positions_BK


def rank_all(
    query_BD: Floats, blocks: Iterable[tuple[Positions, npt.NDArray[np.floating]]], k: int
) -> tuple[Floats, Positions]:
    """Return the true cosines and ids (B, k) of each query's best rows, of all rows; -inf and -1 where there are fewer.

    Args:
        query_BD: float32 unit rows.
        blocks: Distinct ids (N,) and vectors (N, D), block by block.
        k: Results per query.
    """
    width = query_BD.shape[1]
    search = ExactSearch(query_BD, (width,), k)
    for ids_N, x_ND in blocks:
        search.add(pa.array(ids_N), x_ND)
    best = search.best[width]
    ids = best.ids.cast(pa.int64()).fill_null(-1).to_numpy()
    return best.scores_QK, ids.astype(np.int64).reshape(len(query_BD), k)


def search_table(dataset: LanceDataset, query_BD: Floats, k: int, where: str | None) -> Found:
    """Compare every row of a table that satisfies `where`, at full width, reading the table once for all queries."""
    compared = 0

    def blocks() -> Iterator[tuple[Positions, Halves]]:
        nonlocal compared
        for batch, x_ND in scan_vectors(dataset, [ROW_ID], where):
            compared += len(x_ND)
            yield row_ids(batch), np.array(x_ND)

    found = rank_all(query_BD, blocks(), k)
    return Found(*found, dataset, np.full(len(query_BD), compared, np.int64))


def _query_groups(candidates_B: Sequence[Positions], max_gathered: int) -> Iterator[range]:
    """Yield ranges of queries whose candidates are gathered together."""
    start = count = 0
    for query, candidates in enumerate(candidates_B):
        if count and count + len(candidates) > max_gathered:
            yield range(start, query)
            start, count = query, 0
        count += len(candidates)
    if start < len(candidates_B):
        yield range(start, len(candidates_B))
