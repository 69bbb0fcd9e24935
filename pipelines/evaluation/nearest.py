"""How good a prefix is: what its exact nearest neighbours share with those of the full vectors, or with the truth.

Owns exact measurement in memory, of tables that fit there; owns no index and no table.

Shapes: N database rows, Q queries, D full width, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.storage.device import pick_device
from pipelines.vectors.matryoshka import cut

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]

_QUERIES_AT_ONCE, _SCORES_AT_ONCE = 256, 1 << 27


def neighbours(
    database_ND: Floats, queries_QD: Floats, dim: int, k: int, *, skip_self: bool = False, device: str = "auto"
) -> Rows:
    """Return the (Q, K) database rows nearest to each query by the first `dim` dims, best first, exactly.

    Args:
        database_ND: Any float dtype.
        queries_QD: Any float dtype.
        dim: Width of the prefix.
        k: Neighbours wanted; at most N.
        skip_self: Query q is database row q and is not its own neighbour.
        device: Torch device that compares; `auto` is a GPU if there is one.
    """
    place = pick_device(device)
    database_NM = cut(torch.from_numpy(np.asarray(database_ND, np.float32)), dim).to(place)
    queries_QM = cut(torch.from_numpy(np.asarray(queries_QD, np.float32)), dim).to(place)
    at_once = max(1, min(_QUERIES_AT_ONCE, _SCORES_AT_ONCE // len(database_NM)))
    found = []
    for start in range(0, len(queries_QM), at_once):
        scores = queries_QM[start : start + at_once] @ database_NM.T
        if skip_self:
            scores.diagonal(start).fill_(-torch.inf)
        found.append(scores.topk(k).indices.cpu())
    return torch.cat(found).numpy()


def recall_by_dim(
    database_ND: Floats, queries_QD: Floats, dims: Sequence[int], k: int = 10, *, skip_self: bool = False
) -> list[float]:
    """Return, for each dim, the share of the full-width top k that the prefix's top k holds."""
    width = database_ND.shape[1]
    exact_QK = neighbours(database_ND, queries_QD, width, k, skip_self=skip_self)
    shares = []
    for dim in dims:
        found_QK = exact_QK if dim == width else neighbours(database_ND, queries_QD, dim, k, skip_self=skip_self)
        shares.append(float((found_QK[:, :, None] == exact_QK[:, None, :]).any(axis=1).mean()))
    return shares


def hits_by_dim(database_ND: Floats, queries_QD: Floats, answers_Q: Rows, dims: Sequence[int], k: int) -> list[float]:
    """Return, for each dim, the share of queries whose one right row is among the prefix's top k."""
    return [
        float((neighbours(database_ND, queries_QD, dim, k) == answers_Q[:, None]).any(axis=1).mean()) for dim in dims
    ]


def label_accuracy_by_dim(database_ND: Floats, labels_N: npt.NDArray[np.str_], dims: Sequence[int]) -> list[float]:
    """Return, for each dim, how often a row's nearest other row has its label: 1-NN, leave one out."""
    nearest = [neighbours(database_ND, database_ND, dim, 1, skip_self=True)[:, 0] for dim in dims]
    return [float((labels_N[rows_N] == labels_N).mean()) for rows_N in nearest]
