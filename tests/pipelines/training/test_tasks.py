"""Tasks count correct answers, and refuse a ladder beyond their features."""

from __future__ import annotations

import pytest
import torch

from pipelines.training.tasks import MaskedLanguage, check_ladder, count_pairs, count_top1
from schemas.config.training import LossConfig, ModelConfig
from schemas.errors import ConfigError


def test_top1_is_counted_at_each_dim() -> None:
    scores_G = [torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.1, 0.9], [0.2, 0.8]])]
    right_G, rows = count_top1(scores_G, torch.tensor([0, 1]))
    assert (right_G.tolist(), rows) == ([2, 1], 2)


def test_a_pair_is_correct_when_its_own_left_row_is_the_nearest() -> None:
    left_BD = torch.eye(4)
    right_G, rows = count_pairs(left_BD, left_BD[[0, 1, 3, 2]], (2, 4))
    assert (right_G[1].item(), rows) == (2, 4)
    assert count_pairs(left_BD, left_BD, (4,))[0].tolist() == [4]


def test_a_ladder_ends_within_the_features() -> None:
    assert check_ladder(LossConfig(dims=(4, 8)), 8) == (4, 8)
    with pytest.raises(ConfigError, match="ends at 8, but the model gives 6 features"):
        check_ladder(LossConfig(dims=(4, 8)), 6)
    with pytest.raises(ConfigError, match=r"model\.width"):
        MaskedLanguage(ModelConfig(text="bert-tiny", width=8), LossConfig(dims=(4, 8)), 30)
