"""The cache of exported models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.encoders.onnx import OnnxModel, cache_dir, export_once


def test_the_cache_follows_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "matryoshka-lake" / "onnx"


def test_a_module_is_exported_once_and_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module = torch.nn.Linear(3, 2).eval()
    path = export_once(module, torch.zeros(2, 3), "weights")
    written_at = path.stat().st_mtime_ns
    assert export_once(module, torch.zeros(2, 3), "weights") == path
    assert path.stat().st_mtime_ns == written_at
    x_BD = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(x_BD)).numpy()
    np.testing.assert_allclose(OnnxModel(path)(x_BD), expected, atol=1e-5)
