"""Pooling and steps, from token vectors to unit rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.encoders.inference import apply_steps, pool
from schemas.errors import EncoderError

HIDDEN_BLD = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]]])
MASK_BL = torch.tensor([[1, 1, 0]])


def test_padding_is_not_pooled() -> None:
    assert pool(HIDDEN_BLD, MASK_BL, "mean").tolist() == [[2.0, 1.0]]
    assert pool(HIDDEN_BLD, MASK_BL, "last").tolist() == [[3.0, 2.0]]
    assert pool(HIDDEN_BLD, MASK_BL, "cls").tolist() == [[1.0, 0.0]]
    with pytest.raises(EncoderError, match="must name a pooling"):
        pool(HIDDEN_BLD, MASK_BL, "model")


def test_steps_are_applied_in_order() -> None:
    x_BD = torch.tensor([[3.0, 4.0]])
    np.testing.assert_allclose(apply_steps(x_BD, ("l2",)), [[0.6, 0.8]], atol=1e-6)
    np.testing.assert_allclose(apply_steps(x_BD, ("layer_norm", "l2")), [[-(0.5**0.5), 0.5**0.5]], atol=1e-3)
