"""Nested losses: one base loss at every dim of a ladder, weighted and summed.

The outputs of all dims come from running partial sums: one block of columns after another is multiplied and added on,
so that all dims together cost one product at full width, forward and backward.

Shapes: B rows, D full width, M a dim, G dims, C classes (or tokens, or rows of the other side).

Source: Kusupati et al. 2022 (arXiv 2205.13147), equation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.training.process_group import gather_rows, sum_over_workers, worker_rank, world_size
from pipelines.vectors.matryoshka import prefix, split

Base = Callable[..., Tensor]
"""A loss at one dim: takes the output, then the targets; returns a scalar."""

_LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class Losses:
    """A nested loss and its parts.

    Attributes:
        total: Scalar to minimise: the weighted sum over dims.
        by_dim: (G,) base losses, unweighted and detached.
    """

    total: Tensor
    by_dim: Tensor


class Nested(nn.Module):
    """Any base loss at every dim: Σ_m c_m · base(output_m, targets).

    Example:
        >>> nested = Nested((8, 16), functional.mse_loss)
        >>> nested([prefix(x_BD, dim) for dim in (8, 16)], y_B)  # doctest: +SKIP
    """

    weights: Tensor

    def __init__(self, dims: Sequence[int], base: Base, weights: Sequence[float] | None = None) -> None:
        """Keep the base loss and the importance weights.

        Args:
            dims: The ladder, ascending.
            base: Loss at one dim.
            weights: c_m, one per dim; None is 1 for each, as in the paper.

        Raises:
            ValueError: The dims do not ascend, or there is not one weight per dim.
        """
        super().__init__()
        if not dims or list(dims) != sorted(set(dims)) or dims[0] < 1:
            raise ValueError(f"dims must ascend from 1 or more, got {tuple(dims)}")
        if weights is not None and len(weights) != len(dims):
            raise ValueError(f"{len(weights)} weights for {len(dims)} dims; give one per dim")
        self.dims, self.base = tuple(dims), base
        self.register_buffer("weights", torch.tensor(weights or [1.0] * len(dims)))

    def forward(self, outputs_G: Iterable[Tensor], *targets: Any) -> Losses:
        """Return the loss of one output per dim."""
        by_dim = torch.stack([self.base(output, *targets) for output in outputs_G])
        return Losses(self.weights.to(by_dim.dtype) @ by_dim, by_dim.detach())


class LinearHeads(nn.Module):
    """Logits at every dim: a linear head for each (MRL), or one head whose first columns serve each dim (MRL-E).

    Separate heads cost Σ m · C multiplications, less than two full heads when the dims double; the tied one costs one.
    """

    def __init__(self, dims: Sequence[int], classes: int, *, tied: bool = False) -> None:
        """Make the heads with the default initial weights of torch."""
        super().__init__()
        self.dims = tuple(dims)
        self.heads = nn.ModuleList(nn.Linear(dim, classes) for dim in ([self.dims[-1]] if tied else self.dims))
        self.tied = tied

    def forward(self, x_BD: Tensor) -> list[Tensor]:
        """Return the (B, C) logits of each dim, ascending."""
        if self.tied:
            head = cast(nn.Linear, self.heads[0])
            return [product + head.bias for product in partial_products(x_BD, head.weight, self.dims)]
        return [head(prefix(x_BD, dim)) for head, dim in zip(self.heads, self.dims, strict=True)]


class ClassLoss(nn.Module):
    """Cross-entropy of nested logits: MRL, MRL-E, and with one dim a fixed-feature model."""

    def __init__(
        self,
        dims: Sequence[int],
        classes: int,
        *,
        tied: bool = False,
        weights: Sequence[float] | None = None,
        smoothing: float = 0.0,
    ) -> None:
        """Make the heads.

        Args:
            dims: The ladder.
            classes: Number of classes.
            tied: MRL-E instead of MRL.
            weights: Importance of each dim.
            smoothing: Label smoothing.
        """
        super().__init__()
        self.heads = LinearHeads(dims, classes, tied=tied)
        self.smoothing = smoothing
        self.nested = Nested(dims, self._cross_entropy, weights)

    def forward(self, x_BD: Tensor, labels_B: Tensor) -> Losses:
        """Return the loss of features (B, D) with labels (B,) int64."""
        nested: Losses = self.nested(self.heads(x_BD), labels_B)
        return nested

    def _cross_entropy(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        return functional.cross_entropy(logits_BC, labels_B, label_smoothing=self.smoothing)


class PairLoss(nn.Module):
    """InfoNCE of pairs, both sides nested: each side's prefix is normalised by itself, the temperature is learnt.

    Over several workers, each row is contrasted with the rows of all workers, and gradients flow to all of them. The
    mean over workers is the loss, and the gradient, of the whole batch.

    Source: Jia et al. 2021 (arXiv 2102.05918), equations 1 and 2, nested as in Kusupati et al. 2022, section 4.
    """

    def __init__(
        self, dims: Sequence[int], *, weights: Sequence[float] | None = None, temperature: float = 0.07
    ) -> None:
        """Start at a temperature; while it is learnt it never falls below 0.01."""
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0 / temperature).log())
        self.nested = Nested(dims, _of_pairs, weights)

    def forward(self, left_BD: Tensor, right_BD: Tensor) -> Losses:
        """Return the loss of B pairs; row b of one side belongs to row b of the other."""
        dims, rows = self.nested.dims, len(left_BD)
        scale = self.log_scale.exp().clamp(max=_LARGEST_SCALE)
        if world_size() == 1:
            both = ((scale * cosines, scale * cosines.T) for cosines in partial_cosines(left_BD, right_BD, dims))
        else:
            all_left, all_right = gather_rows(left_BD, right_BD)
            forth, back = partial_cosines(left_BD, all_right, dims), partial_cosines(right_BD, all_left, dims)
            both = ((scale * a, scale * b) for a, b in zip(forth, back, strict=True))
        own_B = worker_rank() * rows + torch.arange(rows, device=left_BD.device)
        nested: Losses = self.nested(both, own_B)
        return nested


class TokenLoss(nn.Module):
    """Masked language modelling: prefixes of the hidden state, and a decoder tied to the token embeddings.

    Source: Devlin et al. 2019 (arXiv 1810.04805), section 3.1, nested as in Kusupati et al. 2022, section 4.
    """

    def __init__(self, dims: Sequence[int], vocabulary: int, *, weights: Sequence[float] | None = None) -> None:
        """Make the decoder's bias; its weight is the token embedding, passed to each call."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.nested = Nested(dims, _of_tokens, weights)

    def logits(self, hidden_ND: Tensor, embedding_CD: Tensor) -> Iterator[Tensor]:
        """Yield the (N, C) logits of each dim."""
        return (p + self.bias for p in partial_products(hidden_ND, embedding_CD, self.nested.dims))

    def forward(self, hidden_ND: Tensor, embedding_CD: Tensor, tokens_N: Tensor) -> Losses:
        """Return the loss of the hidden states of N masked tokens; over several workers, the mean over all tokens."""
        count = sum_over_workers(len(tokens_N), hidden_ND.device).clamp(min=1) / world_size()
        nested: Losses = self.nested(self.logits(hidden_ND, embedding_CD), tokens_N, count)
        return nested


class SimilarityLoss(nn.Module):
    """Distillation: similarities within the batch, by each prefix, shall be those of the full frozen vectors.

    The cosines of both become distributions over the other rows, in which near rows weigh most; the loss is their
    Kullback–Leibler divergence.
    """

    def __init__(
        self, dims: Sequence[int], *, weights: Sequence[float] | None = None, temperature: float = 0.05
    ) -> None:
        """Keep the temperature: the smaller it is, the more the nearest rows count."""
        super().__init__()
        self.temperature = temperature
        self.nested = Nested(dims, _of_similarities, weights)

    def forward(self, x_BD: Tensor, teacher_BT: Tensor) -> Losses:
        """Return the loss of vectors (B, D) against the similarities of frozen unit rows (B, T)."""
        with torch.no_grad():
            teacher_BT = functional.normalize(teacher_BT.float(), dim=-1)
            wanted_BB = _without_self(teacher_BT @ teacher_BT.T / self.temperature).log_softmax(-1)
        cosines = partial_cosines(x_BD, x_BD, self.nested.dims)
        nested: Losses = self.nested((c / self.temperature for c in cosines), wanted_BB)
        return nested


def partial_products(x_BD: Tensor, w_CD: Tensor, dims: Sequence[int]) -> Iterator[Tensor]:
    """Yield the products of the prefixes of x and w, (B, C), dims ascending; sums are in float32 or better."""
    total: Tensor | None = None
    for x_BM, w_CM in zip(split(x_BD, dims), split(w_CD, dims), strict=True):
        block = x_BM @ w_CM.T
        block = block.float() if block.dtype in (torch.bfloat16, torch.float16) else block
        total = block if total is None else total + block
        yield total


def partial_cosines(x_BD: Tensor, y_CD: Tensor, dims: Sequence[int]) -> Iterator[Tensor]:
    """Yield the (B, C) cosines of the rows' prefixes at every dim; an all-zero prefix has cosine 0 and no gradient."""
    norms = zip(_inverse_norms(x_BD, dims), _inverse_norms(y_CD, dims), strict=True)
    for product_BC, (x_B, y_C) in zip(partial_products(x_BD, y_CD, dims), norms, strict=True):
        yield product_BC * x_B[:, None] * y_C


def _inverse_norms(x_BD: Tensor, dims: Sequence[int]) -> Iterator[Tensor]:
    x_BD = x_BD.float() if x_BD.dtype in (torch.bfloat16, torch.float16) else x_BD
    total_B = x_BD.new_zeros(len(x_BD))
    for block_BM in split(x_BD, dims):
        total_B = total_B + block_BM.square().sum(1)
        smallest = torch.finfo(total_B.dtype).tiny
        yield torch.where(total_B > smallest, total_B.clamp(min=smallest).rsqrt(), 0)


def _of_pairs(both: tuple[Tensor, Tensor], own_B: Tensor) -> Tensor:
    forth_BC, back_BC = both
    return (functional.cross_entropy(forth_BC, own_B) + functional.cross_entropy(back_BC, own_B)) / 2


def _of_tokens(logits_NC: Tensor, tokens_N: Tensor, count: Tensor) -> Tensor:
    return functional.cross_entropy(logits_NC, tokens_N, reduction="sum") / count


def _of_similarities(scores_BB: Tensor, wanted_BB: Tensor) -> Tensor:
    found_BB = _without_self(scores_BB).log_softmax(-1)
    return functional.kl_div(found_BB, wanted_BB, reduction="batchmean", log_target=True)


def _without_self(scores_BB: Tensor) -> Tensor:
    """Return each row's scores with the other rows: (B, B-1)."""
    rows = len(scores_BB)
    return scores_BB.flatten()[1:].view(rows - 1, rows + 1)[:, :-1].reshape(rows, rows - 1)
