"""Measure how much a rotation improves the prefixes of a table.

Shapes: N sampled rows, D full width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.evaluation import recall_by_dim
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.rotation import Rotation
from schemas.columns import VECTOR

_MAX_ROWS, _MAX_QUERIES = 20_000, 500


@dataclass(frozen=True)
class Rotated:
    """A table after its rotation, with recall@10 of its prefixes before and after it.

    The neighbours by full vectors are the ground truth.

    Attributes:
        table: The rotated table.
        dims: Its ladder.
        before: Recall of the raw prefixes, one for each dim.
        after: Recall of the rotated ones.
    """

    table: VectorTable
    dims: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


def rotated_recall(table: VectorTable, rotation: Rotation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure raw and rotated prefixes on a sample of a table.

    Args:
        table: Open at a version that is not rotated.
        rotation: Fitted on it.

    Returns:
        Recall@10 of the raw prefixes and of the rotated ones, one number for each dim of the rotation's ladder.
    """
    rows = table.dataset.sample(min(_MAX_ROWS, table.dataset.count_rows()), columns=[VECTOR])
    raw_ND = to_numpy(rows[VECTOR]).astype(np.float32)
    rotated_ND, dims = rotation.apply(raw_ND), rotation.ladder.dims
    before, after = (recall_by_dim(x_ND, x_ND[:_MAX_QUERIES], dims, skip_self=True) for x_ND in (raw_ND, rotated_ND))
    return tuple(before), tuple(after)
