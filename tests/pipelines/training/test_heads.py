"""Layers and tasks of heads."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.training.heads import LabelHead, PairHead, SimilarityHead, Stack
from pipelines.vectors.rotation import Rotation
from schemas.config.training import LossConfig

LOSS = LossConfig(dims=(2, 4))


def vectors(seed: int, rows: int = 6, width: int = 5) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_the_rotation_of_a_table_is_folded_into_the_first_layer() -> None:
    rng = np.random.default_rng(0)
    rotation = Rotation(np.linalg.qr(rng.normal(size=(32, 32)))[0].astype(np.float32), np.full(32, 1 / 32, np.float32))
    stack, raw_BT = Stack((32, 16, 8)), rng.normal(size=(5, 32)).astype(np.float32)
    weight, bias = stack.layers(rotation)[0].weight, stack.linears[0].bias
    rotated_BT = torch.from_numpy(rotation.apply(raw_BT))
    folded = torch.from_numpy(raw_BT) @ weight.T + bias
    torch.testing.assert_close(folded, stack.linears[0](rotated_BT), atol=1e-4, rtol=1e-4)


def test_a_stack_has_gelu_between_its_layers() -> None:
    stack, x_BT = Stack((5, 3, 4)), vectors(0)
    first, second = stack.linears
    torch.testing.assert_close(stack(x_BT), second(torch.nn.functional.gelu(first(x_BT))))


def test_every_head_counts_correct_answers_at_each_dim() -> None:
    x_BT = vectors(1)
    labels = LabelHead(Stack((5, 4)), LOSS, 3)
    right_G, rows = labels.count_correct(x_BT, torch.arange(6) % 3)
    assert (right_G.shape, rows) == ((2,), 6)
    same = Stack((5, 4))
    right_G, _ = PairHead(same, same, LOSS).count_correct(x_BT, x_BT)
    assert right_G.tolist() == [6, 6]
    right_G, rows = SimilarityHead(same, LOSS).count_correct(x_BT)
    assert ((right_G <= rows) & (right_G >= 0)).all()
