"""Find the exact K nearest rows of every query at every dim in one pass, close to the speed of the matrix product.

Owns the arithmetic: which rows can be among the K best, and their exact scores. Owns no table and no files. Memory
grows with the size of a chunk and with queries x dims x K.

**What is exact.** The score of a row is the cosine of the two prefixes in float32. Equal scores are ordered by id. A
row whose prefix has no direction (all zeros, NaN or infinity, as another tool may write) is not compared, and counted;
a query without one finds nothing.

**How it is found.** Rows are added in chunks, and each chunk is searched in blocks. For each dim the prefixes of a
block are multiplied with those of the queries, in bfloat16 where the machine is fast at it. The products are rough
scores. Only rows whose rough score could belong to the K best (hits) are scored again in float32. Most rough scores are
never compared on their own: the maximum of each group of 16 rows is compared with the query's bound, and only groups
that reach it are opened.

**Why nothing is lost.** Let s be the exact score of a row, r its rough score, and e a bound on |s - r| before r is
rounded to its own type. With unit prefixes q, x and their roundings q', x' the inequality of Cauchy and Schwarz gives
|qx - q'x'| ≤ ‖q - q'‖ + ‖q'‖ ‖x - x'‖; e adds what float32 sums of M products may be off. If t is at most the K-th best
exact score of the rows seen so far, every row that belongs to the final K best has s ≥ t, hence r ≥ t - e. Rounding
is monotonic, so r ≥ round(t - e) after it, and these rows are kept. At first t comes from the maxima: K groups with
maxima ≥ m hold K rows with r ≥ m, so s ≥ m - e for K rows (less the rounding of m). Later t is the K-th best exact
score itself.

Shapes: Q queries, N rows of a block, D full width, M prefix width, K kept, G groups of rows, C candidates.
"""

from __future__ import annotations

import timeit
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipelines.storage.device import pick_device
from pipelines.vectors.matryoshka import cut, have_direction
from schemas.config import ExactConfig

_GROUP = 16
BLOCK_ROWS = 2048
_CUT_ROWS = 256
_HITS_PER_KEPT = 4


@dataclass
class Best:
    """Hold the best rows of each query at one dim, best first.

    Attributes:
        scores_QK: Cosines, float32; -inf where a query has fewer than K rows.
        ids: Q x K ids, flat, query by query; null where a query has fewer than K rows.
    """

    scores_QK: npt.NDArray[np.float32]
    ids: pa.Array


class ExactSearch:
    """Collects the exact K best rows of each query at each dim from rows that are added chunk by chunk.

    Attributes:
        lost: Rows so far that were not compared, by dim, since they have no direction there.

    Example:
        >>> search = ExactSearch(queries_QD, dims=(64, 768), k=10)  # doctest: +SKIP
        >>> search.add(ids, vectors_ND)  # doctest: +SKIP
        >>> search.best[64].scores_QK  # doctest: +SKIP
    """

    def __init__(
        self,
        queries_QD: npt.NDArray[np.floating],
        dims: Sequence[int],
        k: int,
        config: ExactConfig = ExactConfig(),
        query_ids: pa.Array | None = None,
    ) -> None:
        """Prepare the queries.

        Args:
            queries_QD: Queries of any float dtype and any length.
            dims: Prefix widths.
            k: Rows to keep for each query at each dim.
            config: Precision and device.
            query_ids: Ids of the queries, to leave out rows with their query's own id; None: leave no row out.
        """
        self._query_ids = query_ids
        self._device = pick_device(config.device, "exact.device")
        self._product = _Product(len(queries_QD), self._device, config.precision)
        queries = torch.from_numpy(np.ascontiguousarray(queries_QD, np.float32)).to(self._device)
        self._dims = {dim: _Dim(cut(queries, dim), k, self._product.dtype) for dim in sorted(set(dims))}
        self.lost = dict.fromkeys(self._dims, 0)

    @property
    def best(self) -> dict[int, Best]:
        """The best rows by dim, of all rows added so far."""
        return {dim: state.best for dim, state in self._dims.items()}

    def add(self, ids: pa.Array, vectors_ND: npt.NDArray[np.floating], own_ids: pa.Array | None = None) -> None:
        """Search a chunk of rows.

        Larger chunks take less time and more memory: 8 bytes per row and dim, at the widest dim.

        Args:
            ids: Ids of the rows, unique over all chunks and of one type.
            vectors_ND: Vectors of any float dtype, at least as wide as the widest dim.
            own_ids: What is compared with the queries' ids, to leave rows out; None: `ids`.
        """
        vectors = torch.from_numpy(np.ascontiguousarray(vectors_ND))
        own_rows, own_queries = self._own_rows(ids if own_ids is None else own_ids)
        for start in range(0, len(ids), BLOCK_ROWS):
            block_BD = vectors[start : start + BLOCK_ROWS].to(self._device).float()
            here = (own_rows >= start) & (own_rows < start + len(block_BD))
            own = own_rows[here] - start, own_queries[here]
            for dim, state in self._dims.items():
                cut_BM = cut(block_BD, dim)
                rough_BQ = self._product(cut_BM, state.rough_MQ)
                rough_BQ[own] = -torch.inf
                if (lost_B := ~have_direction(cut_BM)).any():
                    rough_BQ[lost_B] = -torch.inf
                    self.lost[dim] += int(lost_B.sum())
                state.select(rough_BQ, start, is_last=start + len(block_BD) == len(ids))
                if state.has_many_hits():
                    state.score_hits(ids, vectors)
        for state in self._dims.values():
            state.score_hits(ids, vectors)

    def _own_rows(self, ids: pa.Array) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which rows have a query's id, and which query; empty if no row is to be left out."""
        if self._query_ids is None:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        query = pc.index_in(ids, value_set=self._query_ids)
        rows = np.flatnonzero(pc.is_valid(query))
        return torch.from_numpy(rows), torch.from_numpy(query.drop_null().to_numpy().astype(np.int64))


class _Dim:
    """The search at one dim: prefixes of the queries, the bound that rows must reach, and the best rows so far."""

    def __init__(self, exact_QM: torch.Tensor, k: int, rough: torch.dtype) -> None:
        self.is_lost_Q = ~have_direction(exact_QM)
        self.exact_QM = exact_QM = exact_QM.masked_fill(self.is_lost_Q[:, None], 0)
        self.k, (queries, self.dim) = k, exact_QM.shape
        rough_QM = exact_QM.to(rough)
        self.rough_MQ = rough_QM.T.contiguous()
        # Rounding to bfloat16's 8 significant bits moves a unit row by at most 2^-8, and a product by as large a part.
        self.roundoff = 2.0**-8 if rough == torch.bfloat16 else 0.0
        off_by = (rough_QM.float() - exact_QM).norm(dim=1).max().item() if queries else 0.0
        self.error = off_by + (1 + off_by) * self.roundoff + (self.dim + 16) * 2.0**-23
        self.bound_Q = torch.full((queries,), -torch.inf, device=exact_QM.device)
        self.bound_Q[self.is_lost_Q] = torch.inf  # which no row reaches
        self.best = Best(np.full((queries, k), -np.inf, np.float32), pa.nulls(queries * k))
        self.pool: list[torch.Tensor] | None = []
        self.blocks = 0
        self.hits: list[tuple[torch.Tensor, torch.Tensor]] = []

    def select(self, rough_BQ: torch.Tensor, start: int, *, is_last: bool) -> None:
        """Record as hits the rows of a block that may be among the K best; the block begins at row `start`."""
        rows, queries = rough_BQ.shape
        group = 1
        while group < _GROUP and rows % (2 * group) == 0 and rows >= 2 * group * self.k:
            group *= 2
        grouped_GIQ = _ordered(rough_BQ).view(-1, group, queries)
        maxima_GQ = grouped_GIQ.amax(1)
        self.blocks += 1
        if self.pool is not None:
            self.pool.append(maxima_GQ.view(rough_BQ.dtype))
            if is_last or self.blocks & (self.blocks - 1) == 0:
                self._raise_bound()
        floor_Q = self._floor(rough_BQ.dtype)
        if floor_Q.min() < 0:
            grouped_GIQ = rough_BQ.view(-1, group, queries)
            maxima_GQ = grouped_GIQ.amax(1)
        floor_Q = floor_Q.view(grouped_GIQ.dtype)
        at_G, at_Q = _passing(maxima_GQ, floor_Q)
        opened_CI = grouped_GIQ[at_G, :, at_Q]
        at_C, at_I = (opened_CI >= floor_Q[at_Q, None]).nonzero(as_tuple=True)
        keys = (at_Q[at_C] << 32) | (at_G[at_C] * group + at_I + start)
        self.hits.append((keys, opened_CI[at_C, at_I].view(rough_BQ.dtype)))

    def has_many_hits(self) -> bool:
        """Tell whether hits take much memory even after those below the bound are dropped."""
        most = _HITS_PER_KEPT * self.best.scores_QK.size
        if sum(len(keys) for keys, _ in self.hits) <= most:
            return False
        if self.pool is not None:
            self._raise_bound()
        return len(self._drop_low()[0]) > most // 2

    def score_hits(self, ids: pa.Array, vectors_ND: torch.Tensor) -> None:
        """Score the hits of a chunk exactly and merge them with the best rows so far."""
        if not self.hits:
            return
        sorted_keys = np.sort(self._drop_low()[0].cpu().numpy())
        self.hits = []
        queries, rows = sorted_keys >> 32, sorted_keys & 0xFFFFFFFF
        self.best = merge_best(self.best, queries, rows, self._score(queries, rows, vectors_ND), ids)
        worst_Q = torch.from_numpy(self.best.scores_QK.min(axis=1)).to(self.bound_Q.device)
        self.bound_Q = torch.maximum(self.bound_Q, worst_Q)
        if (torch.isfinite(worst_Q) | self.is_lost_Q.to(worst_Q.device)).all():
            self.pool = None

    def _drop_low(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Drop hits that are now below the bound; return keys and rough scores of the others."""
        keys, rough = (torch.cat(parts) for parts in zip(*self.hits, strict=True))
        stays = rough >= self._floor(rough.dtype)[keys >> 32]
        self.hits = [(keys[stays], rough[stays])]
        return self.hits[0]

    def _floor(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the least rough score (Q,) that a row within the bound can have; above the -inf of left-out rows."""
        return (self.bound_Q - self.error).clamp(min=torch.finfo(dtype).min).to(dtype)

    def _raise_bound(self) -> None:
        """Raise the bound to the K-th largest maximum so far, minus the error of a rough score."""
        maxima_GQ = torch.cat(self.pool or [])
        if len(maxima_GQ) >= self.k:
            largest_QK = maxima_GQ.T.contiguous().topk(self.k, dim=1, sorted=False).values
            self.pool = [largest_QK.T]
            least_Q = largest_QK.amin(1).float()
            least_Q = least_Q.clamp(min=-2)  # -inf of rows that are left out, of which infinity times 0 would be NaN
            self.bound_Q = torch.maximum(self.bound_Q, least_Q - least_Q.abs() * self.roundoff - self.error)

    def _score(
        self, queries: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], vectors_ND: torch.Tensor
    ) -> npt.NDArray[np.float32]:
        """Return the float32 cosines of (query, row) pairs, sorted by query; computes only these dot products."""
        is_wanted = np.zeros(len(vectors_ND), bool)
        is_wanted[rows] = True
        columns = (np.cumsum(is_wanted) - 1)[rows]
        wanted = torch.from_numpy(np.flatnonzero(is_wanted))
        wanted_UM = torch.empty(len(wanted), self.dim, device=self.exact_QM.device)
        for start in range(0, len(wanted), _CUT_ROWS):  # few enough to stay in the cache
            some_BD = vectors_ND[wanted[start : start + _CUT_ROWS]].to(self.exact_QM.device).float()
            wanted_UM[start : start + _CUT_ROWS] = cut(some_BD, self.dim)
        ends = np.cumsum(np.bincount(queries, minlength=len(self.exact_QM)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            pairs = torch.sparse_csr_tensor(
                torch.from_numpy(np.concatenate([[0], ends])),
                torch.from_numpy(columns),
                torch.zeros(len(columns)),
                size=(len(self.exact_QM), len(wanted_UM)),
                device=self.exact_QM.device,
                check_invariants=False,
            )
        scored = torch.sparse.sampled_addmm(pairs, self.exact_QM, wanted_UM.T, beta=0.0)
        return np.asarray(scored.values().cpu().numpy(), np.float32)


def _ordered(rough_BQ: torch.Tensor) -> torch.Tensor:
    """View bfloat16 scores as integers, which compare three times as fast.

    Integers keep the order of positive scores, and negative scores come below them. Among negative scores the order is
    reversed: the largest integer is one of these scores, but not their maximum.
    """
    return rough_BQ.view(torch.int16) if rough_BQ.dtype == torch.bfloat16 else rough_BQ


def _passing(values_GQ: torch.Tensor, floor_Q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and columns of all values that reach their column's floor."""
    if values_GQ.device.type != "cpu" or values_GQ.dtype == torch.bfloat16:
        at_G, at_Q = (values_GQ >= floor_Q).nonzero(as_tuple=True)
        return at_G, at_Q
    flat = np.flatnonzero(values_GQ.numpy() >= floor_Q.numpy())  # five times as fast as torch's nonzero
    rows, columns = np.divmod(flat, values_GQ.shape[1])
    return torch.from_numpy(rows), torch.from_numpy(columns)


def merge_best(
    best: Best,
    queries: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    ids: pa.Array,
) -> Best:
    """Merge scored rows into the best rows so far; equal scores are ordered by id.

    Args:
        best: The best rows so far, Q x K.
        queries: Query of each candidate, (C,).
        rows: Position of each candidate in `ids`, (C,).
        scores: Cosine of each candidate, (C,).
        ids: Ids of the chunk's rows.
    """
    count, k = best.scores_QK.shape
    held = count * k
    of_query = np.concatenate([np.repeat(np.arange(count), k), queries])
    all_scores = np.concatenate([best.scores_QK.ravel(), scores]) + np.float32(0)  # turns -0 into 0
    all_ids = pa.concat_arrays([best.ids.cast(ids.type), ids])
    place = np.concatenate([np.arange(held), held + rows])
    key = (of_query << 32) | _descending(all_scores)
    order = np.argsort(key)
    is_tied = np.zeros(len(key), bool)
    same = (key[order[1:]] == key[order[:-1]]) & np.isfinite(all_scores[order[1:]])
    is_tied[1:] |= same
    is_tied[:-1] |= same
    if is_tied.any():
        tied = order[is_tied]
        by_id = pc.rank(all_ids.take(pa.array(place[tied])), tiebreaker="dense").to_numpy()
        order[is_tied] = tied[np.lexsort((by_id, key[tied]))]
    in_order = of_query[order]
    rank = np.arange(len(order)) - np.searchsorted(in_order, np.arange(count))[in_order]
    kept = order[rank < k]
    return Best(all_scores[kept].reshape(count, k), all_ids.take(pa.array(place[kept])))


def _descending(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Map float32 scores to 32-bit integers in reverse order."""
    bits = scores.view(np.int32)
    return np.int64(0x7FFFFFFF) - np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)


class _Product:
    """The matrix product of a block with all queries, in a buffer that is reused."""

    def __init__(self, queries: int, device: torch.device, precision: str) -> None:
        self.dtype = getattr(torch, precision) if precision != "auto" else _quicker_dtype(device)
        self._buffer = torch.empty(0, queries, dtype=self.dtype, device=device)

    def __call__(self, cut_BM: torch.Tensor, rough_MQ: torch.Tensor) -> torch.Tensor:
        """Return (B, Q), valid until the next call, in the product's dtype; in float32 on a GPU."""
        if (
            cut_BM.is_cuda and self.dtype == torch.bfloat16
        ):  # else partial sums may be rounded, and no bound covers that
            return torch.mm(cut_BM.to(self.dtype), rough_MQ, out_dtype=torch.float32)
        if len(cut_BM) > len(self._buffer):
            self._buffer = torch.empty(len(cut_BM), *self._buffer.shape[1:], dtype=self.dtype, device=cut_BM.device)
        return torch.mm(cut_BM.to(self.dtype), rough_MQ, out=self._buffer[: len(cut_BM)])


@cache
def _quicker_dtype(device: torch.device) -> torch.dtype:
    """Time a small product: bfloat16 is several times as fast as float32 on some CPUs, and slower on others."""
    if device.type == "cuda":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(512, 512, dtype=dtype)
        seconds[dtype] = min(timeit.repeat(partial(torch.mm, x, x), number=1, repeat=3))
    return min(seconds, key=seconds.__getitem__)
