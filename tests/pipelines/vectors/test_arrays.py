"""Vectors go to Arrow and back unchanged, with or without torch."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest

from pipelines.vectors.arrays import to_arrow, to_numpy


def test_vectors_go_to_arrow_and_back() -> None:
    x_BD = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float16)
    column = to_arrow(x_BD)
    assert np.array_equal(to_numpy(column), x_BD)
    assert np.array_equal(to_numpy(column.slice(2, 3)), x_BD[2:5])
    assert np.array_equal(to_numpy(pa.chunked_array([column[:2], column[2:]])), x_BD)


def test_half_precision_rounds_alike_with_and_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: F401 - to_arrow uses it where it is loaded

    x_BD = np.random.default_rng(0).standard_normal((50, 16)) * 10.0 ** np.arange(-12, 4)
    x_BD = x_BD.astype(np.float32)
    with_torch = to_arrow(x_BD[:, ::-1])
    monkeypatch.delitem(sys.modules, "torch")
    assert to_arrow(x_BD[:, ::-1]).equals(with_torch)
