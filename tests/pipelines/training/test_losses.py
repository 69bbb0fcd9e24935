"""Every nested loss equals a loop over dims that slices, normalises and adds; gradients are checked by gradcheck."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pipelines.training.losses import (
    ClassLoss,
    LinearHeads,
    Losses,
    Nested,
    PairLoss,
    SimilarityLoss,
    TokenLoss,
    partial_cosines,
    partial_products,
)
from pipelines.vectors.matryoshka import prefix, unit

DIMS, WEIGHTS = (2, 4, 7), (1.0, 0.5, 2.0)
B, D, C = 5, 7, 4


def floats(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


LABELS = torch.tensor([0, 3, 1, 1, 2])


def unit64(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def naive_class(loss: ClassLoss, x_BD: Tensor) -> Tensor:
    total = x_BD.new_zeros(())
    for i, (dim, weight) in enumerate(zip(DIMS, WEIGHTS, strict=True)):
        head = loss.heads.heads[0 if loss.heads.tied else i]
        logits = x_BD[:, :dim] @ head.weight[:, :dim].T + head.bias
        log_p = logits - logits.exp().sum(1, keepdim=True).log()
        picked = -log_p[torch.arange(B), LABELS]
        total = total + weight * ((1 - loss.smoothing) * picked - loss.smoothing * log_p.mean(1)).mean()
    return total


def naive_pairs(loss: PairLoss, left_BD: Tensor, right_BD: Tensor) -> Tensor:
    total = left_BD.new_zeros(())
    for dim, weight in zip(DIMS, WEIGHTS, strict=True):
        scores = loss.log_scale.exp() * unit64(left_BD[:, :dim]) @ unit64(right_BD[:, :dim]).T
        forth = -scores.log_softmax(1).diagonal().mean()
        back = -scores.log_softmax(0).diagonal().mean()
        total = total + weight * (forth + back) / 2
    return total


def naive_tokens(loss: TokenLoss, hidden_ND: Tensor, embedding_CD: Tensor) -> Tensor:
    total = hidden_ND.new_zeros(())
    for dim, weight in zip(DIMS, WEIGHTS, strict=True):
        logits = hidden_ND[:, :dim] @ embedding_CD[:, :dim].T + loss.bias
        total = total - weight * logits.log_softmax(1)[torch.arange(B), LABELS].mean()
    return total


def naive_similarities(loss: SimilarityLoss, x_BD: Tensor, teacher_BT: Tensor) -> Tensor:
    total = x_BD.new_zeros(())
    for dim, weight in zip(DIMS, WEIGHTS, strict=True):
        for row in range(B):
            others = [other for other in range(B) if other != row]
            cosines = unit64(x_BD[:, :dim]) @ unit64(x_BD[:, :dim])[row]
            wanted = (unit64(teacher_BT) @ unit64(teacher_BT)[row])[others] / loss.temperature
            found = cosines[others] / loss.temperature
            p = wanted.softmax(0)
            total = total + weight * (p * (wanted.log_softmax(0) - found.log_softmax(0))).sum() / B
    return total


def class_loss(tied: bool) -> tuple[ClassLoss, Sequence[Tensor], Callable[..., Losses], Callable[..., Tensor]]:
    loss = ClassLoss(DIMS, C, tied=tied, weights=WEIGHTS, smoothing=0.1).double()
    return loss, [floats(B, D)], lambda x: loss(x, LABELS), lambda x: naive_class(loss, x)


def pair_loss() -> tuple[PairLoss, Sequence[Tensor], Callable[..., Losses], Callable[..., Tensor]]:
    loss = PairLoss(DIMS, weights=WEIGHTS, temperature=0.3).double()
    return loss, [floats(B, D), floats(B, D, seed=1)], loss, lambda a, b: naive_pairs(loss, a, b)


def token_loss() -> tuple[TokenLoss, Sequence[Tensor], Callable[..., Losses], Callable[..., Tensor]]:
    loss = TokenLoss(DIMS, C, weights=WEIGHTS).double()
    given = [floats(B, D), floats(C, D, seed=1)]
    return loss, given, lambda x, e: loss(x, e, LABELS), lambda x, e: naive_tokens(loss, x, e)


def similarity_loss() -> tuple[SimilarityLoss, Sequence[Tensor], Callable[..., Losses], Callable[..., Tensor]]:
    loss = SimilarityLoss(DIMS, weights=WEIGHTS, temperature=0.4).double()
    teacher = floats(B, 9, seed=2).detach()
    given = [floats(B, D)]
    return loss, given, lambda x: loss(x, teacher), lambda x: naive_similarities(loss, x, teacher)


@pytest.mark.parametrize(
    "make",
    [lambda: class_loss(False), lambda: class_loss(True), pair_loss, token_loss, similarity_loss],
    ids=["MRL", "MRL-E", "InfoNCE", "MLM", "distillation"],
)
def test_value_and_gradient_are_those_of_the_naive_loop(make: Callable[[], tuple]) -> None:  # type: ignore[type-arg]
    loss, given, ours, naive = make()
    learnt = [*given, *loss.parameters()]
    found, wanted = ours(*given).total, naive(*given)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if isinstance(loss, SimilarityLoss) else {"atol": 1e-9, "rtol": 1e-9}
    torch.testing.assert_close(found, wanted, **tolerance)
    for mine, theirs in zip(torch.autograd.grad(found, learnt), torch.autograd.grad(wanted, learnt), strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)
    assert torch.autograd.gradcheck(lambda *inputs: ours(*inputs[: len(given)]).total, tuple(learnt))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True).map(sorted),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 1 << 30),
)
@settings(max_examples=60)
def test_partial_sums_are_the_products_of_the_prefixes(dims: list[int], b: int, c: int, seed: int) -> None:
    x_BD, w_CD = floats(b, dims[-1], seed=seed), floats(c, dims[-1], seed=seed + 1)
    cosines = partial_cosines(x_BD, w_CD, dims)
    for dim, product, cosine in zip(dims, partial_products(x_BD, w_CD, dims), cosines, strict=True):
        torch.testing.assert_close(product, x_BD[:, :dim] @ w_CD[:, :dim].T)
        torch.testing.assert_close(cosine, unit64(x_BD[:, :dim]) @ unit64(w_CD[:, :dim]).T)


def test_tied_logits_equal_one_head_sliced_at_each_dim() -> None:
    heads, x_BD = LinearHeads((8, 16, 32, 64), 10, tied=True), torch.randn(6, 64)
    (head,) = heads.heads
    for dim, logits in zip(heads.dims, heads(x_BD), strict=True):
        torch.testing.assert_close(logits, functional.linear(x_BD[:, :dim], head.weight[:, :dim], head.bias))


def test_separate_heads_are_one_per_dim_and_none_sees_past_its_prefix() -> None:
    heads, x_BD = LinearHeads((2, 4), 3), torch.randn(5, 4)
    small, full = heads(x_BD)
    changed = x_BD.clone()
    changed[:, 2:] += 1
    torch.testing.assert_close(heads(changed)[0], small)
    assert not torch.equal(heads(changed)[1], full)
    assert [tuple(head.weight.shape) for head in heads.heads] == [(3, 2), (3, 4)]


def test_weights_follow_the_module_and_scale_each_dim() -> None:
    nested = Nested((2, 4), functional.mse_loss, (3.0, 0.0))
    assert "weights" in nested.state_dict()
    assert nested.to("meta").weights.device.type == "meta"
    x_BD, y_BD = torch.randn(5, 4), torch.zeros(5)
    prefixes = [prefix(x_BD, dim) for dim in (2, 4)]
    losses = Nested((2, 4), lambda p, y: (p.sum(1) - y).square().mean(), (3.0, 0.0))(prefixes, y_BD)
    torch.testing.assert_close(losses.total, 3 * losses.by_dim[0])
    assert not losses.by_dim.requires_grad


def test_under_bfloat16_sums_are_kept_in_float32() -> None:
    x_BD, w_CD = torch.randn(6, 256), torch.randn(9, 256)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        *_, full = partial_products(x_BD, w_CD, (8, 16, 32, 64, 128, 256))
    assert full.dtype == torch.float32
    torch.testing.assert_close(full, x_BD @ w_CD.T, atol=0.4, rtol=0.02)


def test_an_all_zero_prefix_has_no_direction_and_learns_nothing() -> None:
    x_BD = torch.zeros(3, 4, requires_grad=True)
    y_BD = unit(torch.randn(3, 4))
    loss = PairLoss((2, 4))(x_BD, y_BD)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert x_BD.grad is not None
    assert not x_BD.grad.any()


def test_the_temperature_is_learnt_and_bounded() -> None:
    loss = PairLoss((4,), temperature=0.07)
    x_BD = torch.randn(6, 4)
    loss(x_BD, x_BD).total.backward()
    assert loss.log_scale.grad is not None
    assert loss.log_scale.grad != 0
    with torch.no_grad():
        loss.log_scale.fill_(50)
    assert torch.isfinite(loss(x_BD, x_BD).total)


@pytest.mark.parametrize(("dims", "weights"), [((4, 2), None), ((), None), ((0, 2), None), ((2, 4), (1.0,))])
def test_dims_and_weights_that_mean_nothing_are_refused(dims: tuple[int, ...], weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"dims|weights"):
        Nested(dims, functional.mse_loss, weights)
