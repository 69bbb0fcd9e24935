"""Measure how well the shortlist of each dim agrees with that of the full width, to choose how many dims to use.

Owns the overlap, its uncertainty and its plot. Owns no search: it reads shortlists that `exact.py` found.

Shapes: Q queries, K ranks, L dims (ascending, the last is the one compared with), R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.shortlist.bootstrap import percentile_bounds, resample
from schemas.errors import DependencyMissing, TableError

_QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Agreement:
    """Hold the overlap of each dim's shortlist with that of the widest dim, at every rank, with 95 % intervals.

    Overlap at rank r is the share of the widest dim's first r rows that are among this dim's first r rows.

    Attributes:
        dims: L dims, ascending; the others are compared with the last.
        queries: Number of queries, Q.
        overlap_LK: Mean overlap over queries.
        low_LK: Lower ends of its intervals.
        high_LK: Upper ends of its intervals.
        step_low_L: Lower ends of the intervals of each dim's gain at rank K over the dim before it, paired by query;
            the first dim's gain is its overlap.
        step_high_L: Upper ends of these.
    """

    dims: tuple[int, ...]
    queries: int
    overlap_LK: npt.NDArray[np.float64]
    low_LK: npt.NDArray[np.float64]
    high_LK: npt.NDArray[np.float64]
    step_low_L: npt.NDArray[np.float64]
    step_high_L: npt.NDArray[np.float64]

    @property
    def k(self) -> int:
        """Deepest rank."""
        return int(self.overlap_LK.shape[1])

    def least_dim(self, target: float, k: int | None = None) -> int:
        """Return the smallest dim whose overlap at rank k is at least `target`, the interval's lower end included."""
        low_L = self.low_LK[:, (k or self.k) - 1]
        return self.dims[int(np.argmax(low_L >= min(target, 1.0)))]

    def to_table(self) -> pa.Table:
        """Return `dim, rank, overlap, low, high`, a row for each dim and rank."""
        dims, ranks = np.repeat(self.dims, self.k), np.tile(np.arange(1, self.k + 1), len(self.dims))
        values = [dims, ranks, self.overlap_LK.ravel(), self.low_LK.ravel(), self.high_LK.ravel()]
        return pa.table(dict(zip(("dim", "rank", "overlap", "low", "high"), values, strict=True)))

    def plot(self, path: str | Path) -> None:
        """Draw overlap by rank, a line for each dim with its interval, into an SVG, PNG or PDF file.

        Raises:
            DependencyMissing: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise DependencyMissing("plots need matplotlib; run: pip install 'matryoshka-lake[report]'") from None
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        ranks = np.arange(1, self.k + 1)
        for dim, mean_K, low_K, high_K in zip(self.dims, self.overlap_LK, self.low_LK, self.high_LK, strict=True):
            (line,) = axes.plot(ranks, mean_K, label=f"{dim} dims")
            axes.fill_between(ranks, low_K, high_K, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(xlabel="rank", ylabel=f"overlap with {self.dims[-1]} dims", ylim=(0, 1.02), xlim=(1, max(2, self.k)))
        axes.set_xscale("log")
        axes.set_title(f"Agreement of shortlists, {self.queries} queries, 95 % intervals", fontsize=10)
        axes.legend()
        figure.savefig(path)


def agreement(shortlists: Mapping[int, pa.Array], queries: int, resamples: int = 1000, seed: int = 0) -> Agreement:
    """Compare the shortlists of the same queries at several dims with those at the widest dim.

    Args:
        shortlists: By dim, Q x K ids, flat, query by query, best first; null where a query has fewer than K rows
            (`Best.ids` of an `ExactSearch`, or `read_lists` of a table).
        queries: Number of queries, Q.
        resamples: Bootstrap resamples of the queries; each serves all dims and ranks, so differences are paired.
        seed: Seed of the resampling.

    Raises:
        TableError: There are no queries, or no shortlists.

    Example:
        >>> best = search.best  # of an ExactSearch at dims (64, 768)  # doctest: +SKIP
        >>> agreement({dim: b.ids for dim, b in best.items()}, len(queries_QD)).least_dim(0.9)  # doctest: +SKIP

    Source: Efron and Tibshirani 1993, chapter 13 (percentile intervals).
    """
    if not shortlists or queries == 0:
        raise TableError("there are no shortlists to compare; name dims, and a table of queries that has rows")
    dims = tuple(sorted(shortlists))
    codes = _codes([shortlists[dim] for dim in dims], queries)
    overlap_QLK = np.stack([_overlap(codes_QK, codes[-1]) for codes_QK in codes], axis=1)
    mean_LK = overlap_QLK.mean(axis=0)
    means_MR = resample(overlap_QLK.reshape(queries, -1).T, resamples, seed)
    low_LK, high_LK = (bound_M.reshape(mean_LK.shape) for bound_M in percentile_bounds(means_MR))
    full_LR = means_MR.reshape(*mean_LK.shape, -1)[:, -1]
    step_low_L, step_high_L = percentile_bounds(np.diff(full_LR, axis=0, prepend=0.0))
    return Agreement(dims, queries, mean_LK, low_LK, high_LK, step_low_L, step_high_L)


def _codes(lists: list[pa.Array], queries: int) -> list[npt.NDArray[np.int64]]:
    """Number the distinct ids; return the numbers (Q, K) of each list, -1 for null."""
    encoded = pa.concat_arrays(lists).dictionary_encode().indices
    flat = pc.fill_null(encoded, -1).to_numpy().astype(np.int64)
    return [part.reshape(queries, -1) for part in np.split(flat, len(lists))]


def _overlap(codes_QK: npt.NDArray[np.int64], full_QK: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the overlap of two rankings of each query at every rank: (Q, K)."""
    queries, k = full_QK.shape
    found_QK = np.zeros((queries, k))
    ranks = np.arange(k)
    later_KK = np.maximum(ranks[:, None], ranks[None, :])
    for start in range(0, queries, _QUERIES_AT_ONCE):
        full, other = full_QK[start : start + _QUERIES_AT_ONCE], codes_QK[start : start + _QUERIES_AT_ONCE]
        query, a, b = np.nonzero((full[:, :, None] == other[:, None, :]) & (full >= 0)[:, :, None])
        np.add.at(found_QK, (start + query, later_KK[a, b]), 1)
    wanted_QK = np.cumsum(full_QK >= 0, axis=1)
    found_QK = np.cumsum(found_QK, axis=1)
    return np.divide(found_QK, wanted_QK, out=np.ones_like(found_QK), where=wanted_QK > 0)
