"""A rotation is measured against the full vectors, on the same sample before and after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.evaluation.rotated_recall import rotated_recall
from pipelines.tables.table import VectorTable
from pipelines.vectors.matryoshka import unit
from pipelines.vectors.rotation import fit_pca


def test_recall_is_whole_at_full_width_and_better_below_it(make_table: Callable[..., VectorTable]) -> None:
    rng = np.random.default_rng(0)
    mixed = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    x_ND = unit((rng.normal(size=(400, 32)) * 0.7 ** np.arange(32) @ mixed).astype(np.float32)).astype(np.float16)
    rotation = fit_pca([x_ND.astype(np.float32)])
    before, after = rotated_recall(make_table(x_ND), rotation)
    assert len(before) == len(after) == len(rotation.ladder.dims)
    assert (before[-1], after[-1]) == (pytest.approx(1), pytest.approx(1, abs=0.01))
    assert after[0] > before[0] + 0.2
