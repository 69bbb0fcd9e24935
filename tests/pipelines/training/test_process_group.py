"""Two workers equal one worker at the same batch: losses, gradients, and the weights after a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.training.data import Arrays, add_noise
from pipelines.training.loop import fit
from pipelines.training.losses import PairLoss, TokenLoss
from schemas.config.training import OptimiserConfig, Recipe, RunConfig
from tests.support.tiny_training import clusters, perceptron
from tests.support.training_workers import on_two_workers

DIMS = (2, 4, 8)
RECIPE = Recipe(
    optimiser=OptimiserConfig(lr=0.1, warmup_epochs=0.5),
    run=RunConfig(epochs=3, batch=16, precision="float32", device="cpu", tensorboard=False, workers=2),
)


def rows(seed: int, count: int = 12, width: int = 8) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair_gradients(left_BD: Tensor, right_BD: Tensor) -> dict[str, Tensor]:
    """The loss of pairs and its gradients, those of a shared layer under both sides among them."""
    layer, loss = nn.Linear(8, 8, bias=False).double(), PairLoss(DIMS, weights=(1.0, 2.0, 0.5)).double()
    with torch.no_grad():
        layer.weight.copy_(rows(7, 8))
    total = loss(layer(left_BD), layer(right_BD)).total
    total.backward()
    assert layer.weight.grad is not None
    assert loss.log_scale.grad is not None
    return {"total": total.detach(), "weight": layer.weight.grad, "scale": loss.log_scale.grad}


def token_gradients(hidden_ND: Tensor, tokens_N: Tensor) -> dict[str, Tensor]:
    loss, embedding_CD = TokenLoss(DIMS, 5).double(), rows(9, 5).requires_grad_()
    total = loss(hidden_ND, embedding_CD, tokens_N).total
    total.backward()
    assert embedding_CD.grad is not None
    assert loss.bias.grad is not None
    return {"total": total.detach(), "weight": embedding_CD.grad, "bias": loss.bias.grad}


def tokens(count: int) -> Tensor:
    return torch.arange(count) % 5


def work(rank: int) -> dict[str, Any]:
    own = slice(rank * 6, rank * 6 + 6)
    uneven = slice(0, 3) if rank == 0 else slice(3, 12)
    task = perceptron(dropout=0.0)
    history = fit(
        task, Arrays(clusters(), augment=add_noise(0.5)), RECIPE, valid=Arrays(clusters(seed=1), shuffle=False)
    )
    return {
        "pairs": pair_gradients(rows(1)[own], rows(2)[own]),
        "tokens": token_gradients(rows(3)[uneven], tokens(12)[uneven]),
        "weights": task.state_dict(),
        "losses": torch.tensor([epoch.loss for epoch in history.epochs]),
        "right": torch.tensor([list(epoch.right_by_dim.values()) for epoch in history.epochs]),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_workers(work, tmp_path_factory.mktemp("workers"))


@pytest.mark.parametrize("name", ["pairs", "tokens"])
def test_the_mean_of_the_workers_is_the_whole_batch(found: list[dict[str, Any]], name: str) -> None:
    alone = pair_gradients(rows(1), rows(2)) if name == "pairs" else token_gradients(rows(3), tokens(12))
    for key, wanted in alone.items():
        mean = torch.stack([worker[name][key] for worker in found]).mean(0)
        torch.testing.assert_close(mean, wanted, atol=1e-6, rtol=1e-6, msg=f"{name} {key}")


def test_a_run_on_two_workers_gives_the_weights_of_one(found: list[dict[str, Any]]) -> None:
    task = perceptron(dropout=0.0)
    data = Arrays(clusters(), augment=add_noise(0.5))
    history = fit(task, data, RECIPE, valid=Arrays(clusters(seed=1), shuffle=False))
    for name, wanted in task.state_dict().items():
        torch.testing.assert_close(found[0]["weights"][name], wanted, atol=1e-5, rtol=1e-4)
        assert torch.equal(found[0]["weights"][name], found[1]["weights"][name])
    torch.testing.assert_close(found[0]["losses"], torch.tensor([epoch.loss for epoch in history.epochs]))
    right = torch.tensor([list(epoch.right_by_dim.values()) for epoch in history.epochs])
    torch.testing.assert_close(found[1]["right"], right)
