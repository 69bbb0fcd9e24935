"""Exact k-nearest neighbours by prefix, and their agreement with full vectors, answers or labels.

Owns exact search in memory, for tables that fit there. Does not own indexes or tables.

Shapes: N database rows, Q queries, D full width, M prefix width, K neighbours.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.storage.device import pick_device
from pipelines.vectors.arrays import describe
from pipelines.vectors.matryoshka import cut
from schemas.config import check_given, check_whole
from schemas.errors import InputError

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]

_QUERIES_AT_ONCE, _SCORES_AT_ONCE = 256, 1 << 27


def neighbours(
    database_ND: Floats,
    queries_QD: Floats,
    dim: int,
    k: int,
    *,
    documents_N: Rows | None = None,
    skip_self: bool = False,
    device: str = "auto",
) -> Rows:
    """Return the K database rows nearest to each query by prefix, best first, exactly: (Q, K).

    Args:
        database_ND: Any float dtype.
        queries_QD: Any float dtype.
        dim: Prefix width.
        k: K, at most N, or the number of documents.
        documents_N: The number of each row's document, from 0. The K nearest documents are then returned in place of
            rows, each as near as the nearest of its rows.
        skip_self: Query q is database row q and must not find itself.
        device: Torch device of the search; `auto` is a GPU if there is one.
    """
    place = pick_device(device)
    database_NM = cut(torch.from_numpy(np.asarray(database_ND, np.float32)), dim).to(place)
    queries_QM = cut(torch.from_numpy(np.asarray(queries_QD, np.float32)), dim).to(place)
    at_once = max(1, min(_QUERIES_AT_ONCE, _SCORES_AT_ONCE // len(database_NM)))
    documents = None if documents_N is None else torch.from_numpy(documents_N).to(place)
    found = []
    for start in range(0, len(queries_QM), at_once):
        scores = queries_QM[start : start + at_once] @ database_NM.T
        if skip_self:
            scores.diagonal(start).fill_(-torch.inf)
        if documents is not None:
            scores = _best_of_each(scores, documents)
        found.append(scores.topk(k).indices.cpu())
    return torch.cat(found).numpy()


def _best_of_each(scores_QN: torch.Tensor, documents_N: torch.Tensor) -> torch.Tensor:
    """Return the best score of each document's rows, a column each."""
    best = scores_QN.new_full((len(scores_QN), int(documents_N.max()) + 1), -torch.inf)
    return best.scatter_reduce(1, documents_N.expand(len(scores_QN), -1), scores_QN, "amax")


def recall_by_dim(
    database_ND: Floats,
    queries_QD: Floats,
    dims: Sequence[int],
    k: int = 10,
    *,
    skip_self: bool = False,
    device: str = "auto",
) -> list[float]:
    """Return recall@k at each dim: the share of the full vectors' k nearest that the prefix finds.

    The arguments are those of `neighbours`. `dims` are 1 to D each; k is at most N, or N - 1 with `skip_self`.

    Raises:
        InputError: Vectors are no rows of finite floats of one width, or there are none.
        ConfigError: A dim or `k` is outside its bounds, or torch cannot use the device.

    Example:
        >>> x_ND = to_numpy(table.head(100, columns=["vector"])["vector"]).astype("float32")
        >>> recall_by_dim(x_ND, x_ND[:20], [64, 128], skip_self=True)
    """
    check_given(bool, skip_self=skip_self)
    _check_rows("database_ND", database_ND)
    _check_rows("queries_QD", queries_QD, np.shape(database_ND)[1])
    width, rows = database_ND.shape[1], len(database_ND)
    if not isinstance(dims, Sequence) or isinstance(dims, (str, bytes)) or not len(dims):
        raise InputError(f"dims={reprlib.repr(dims)}: pass a list of dims from 1 to {width}, such as [{width}]")
    for dim in dims:
        check_whole(1, width, dim=dim)
    check_whole(1, max(1, rows - skip_self), k=k)
    if skip_self and len(queries_QD) > rows:
        raise InputError(f"skip_self=True: query q is row q, and there are {len(queries_QD)} queries and {rows} rows")
    exact_QK = neighbours(database_ND, queries_QD, width, k, skip_self=skip_self, device=device)
    below = [dim for dim in dims if dim != width]
    shares = iter(recall_of(exact_QK, database_ND, queries_QD, below, skip_self=skip_self, device=device))
    return [1.0 if dim == width else next(shares) for dim in dims]


def _check_rows(name: str, x_ND: object, width: int | None = None) -> None:
    """Refuse what holds no rows that can be compared.

    Raises:
        InputError: It is no matrix of floats of that width, is empty, or holds NaN or infinity.
    """
    wanted = f"(rows, {'dims' if width is None else width})"
    if (
        not isinstance(x_ND, np.ndarray)
        or x_ND.ndim != 2
        or x_ND.dtype.kind != "f"
        or width not in (None, x_ND.shape[1])
    ):
        raise InputError(f"{name}: pass a numpy array of floats of shape {wanted}; this is {describe(x_ND)}")
    if not x_ND.size:
        raise InputError(f"{name}: there are no vectors in an array of shape {x_ND.shape}")
    if lost := int((~np.isfinite(x_ND).all(axis=1)).sum()):
        raise InputError(
            f"{name}: {lost:,} of {len(x_ND):,} rows hold NaN or infinity, and no distance; leave them out"
        )


def recall_of(
    exact_QK: Rows,
    database_ND: Floats,
    queries_QD: Floats,
    dims: Sequence[int],
    *,
    skip_self: bool = False,
    device: str = "auto",
) -> list[float]:
    """Return, for each dim, the share of given neighbours that prefixes of any vectors find."""
    k = exact_QK.shape[1]
    found = (neighbours(database_ND, queries_QD, dim, k, skip_self=skip_self, device=device) for dim in dims)
    return [float((found_QK[:, :, None] == exact_QK[:, None, :]).any(axis=1).mean()) for found_QK in found]


def hits_by_dim(
    database_ND: Floats, queries_QD: Floats, answers_Q: Rows, dims: Sequence[int], k: int, device: str = "auto"
) -> list[float]:
    """Return the hit rate at each dim: the share of queries whose one answer is among the prefix's k nearest."""
    return [
        float((neighbours(database_ND, queries_QD, dim, k, device=device) == answers_Q[:, None]).any(axis=1).mean())
        for dim in dims
    ]


def label_accuracy_by_dim(database_ND: Floats, labels_N: npt.NDArray[np.str_], dims: Sequence[int]) -> list[float]:
    """Return the leave-one-out 1-NN accuracy at each dim."""
    nearest = [neighbours(database_ND, database_ND, dim, 1, skip_self=True)[:, 0] for dim in dims]
    return [float((labels_N[rows_N] == labels_N).mean()) for rows_N in nearest]
