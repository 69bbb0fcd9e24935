"""Heads on a frozen encoder as training tasks: from labels, from pairs, or from the frozen vectors alone.

Owns the layers and their losses. Frozen vectors are read in `pipelines.training.head_data`.

Shapes: B rows, T width of the frozen vectors, D width of the head, G dims.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.encoders.checkpoints import Layer
from pipelines.training.losses import ClassLoss, Losses, PairLoss, SimilarityLoss, partial_cosines
from pipelines.training.tasks import count_pairs, count_top1
from pipelines.vectors.rotation import Rotation
from schemas.config.training import LossConfig


class Stack(nn.Module):
    """Linear layers with GELU between them, stored in `head.safetensors` for one modality."""

    def __init__(self, widths: Sequence[int]) -> None:
        """Make the layers.

        Args:
            widths: From the width of the frozen vectors to that of the head.
        """
        super().__init__()
        self.linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self._registered = nn.ModuleList(self.linears)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Return (B, D) vectors, not normalised."""
        x = x_BT
        for number, linear in enumerate(self.linears):
            x = linear(functional.gelu(x) if number else x)
        return x

    def layers(self, rotation: Rotation | None = None) -> list[Layer]:
        """Return the layers for `save_head`, with the rotation of the table's vectors folded into the first."""
        layers = [Layer(linear.weight.detach(), linear.bias.detach()) for linear in self.linears]
        if rotation is not None:
            folded = layers[0].weight.cpu() @ torch.tensor(rotation.matrix_DD)
            layers[0] = Layer(folded, layers[0].bias)
        return layers


class LabelHead(nn.Module):
    """A head from labels: cross-entropy of nested classifiers on top of it, which are not saved."""

    metric = "top-1"

    def __init__(self, stack: Stack, loss: LossConfig, classes: int) -> None:
        """Put classifiers on the stack."""
        super().__init__()
        self.dims, self.stack = loss.dims, stack
        self.loss = ClassLoss(loss.dims, classes, tied=loss.tied, weights=loss.weights, smoothing=loss.smoothing)

    def forward(self, x_BT: Tensor, labels_B: Tensor) -> Losses:
        """Return the losses of frozen vectors and their classes."""
        losses: Losses = self.loss(self.stack(x_BT), labels_B)
        return losses

    def count_correct(self, x_BT: Tensor, labels_B: Tensor) -> tuple[Tensor, int]:
        """Count the rows whose class scores highest, at each dim."""
        return count_top1(self.loss.heads(self.stack(x_BT)), labels_B)


class PairHead(nn.Module):
    """Two heads from pairs: the frozen vectors of both sides go into one space."""

    metric = "top-1 in the batch"

    def __init__(self, left: Stack, right: Stack, loss: LossConfig) -> None:
        """Keep the stacks of both sides."""
        super().__init__()
        self.dims, self.left, self.right = loss.dims, left, right
        self.loss = PairLoss(loss.dims, weights=loss.weights, temperature=loss.temperature or 0.07)

    def forward(self, left_BT: Tensor, right_BT: Tensor) -> Losses:
        """Return the losses of pairs of frozen vectors."""
        losses: Losses = self.loss(self.left(left_BT), self.right(right_BT))
        return losses

    def count_correct(self, left_BT: Tensor, right_BT: Tensor) -> tuple[Tensor, int]:
        """Count the right rows whose nearest left row in the batch is their own, at each dim."""
        return count_pairs(self.left(left_BT), self.right(right_BT), self.dims)


class SimilarityHead(nn.Module):
    """A head from the frozen vectors alone: neighbours by full vectors shall be neighbours by every prefix."""

    metric = "same nearest in the batch"

    def __init__(self, stack: Stack, loss: LossConfig) -> None:
        """Keep the stack of layers."""
        super().__init__()
        self.dims, self.stack = loss.dims, stack
        self.loss = SimilarityLoss(loss.dims, weights=loss.weights, temperature=loss.temperature or 0.05)

    def forward(self, x_BT: Tensor) -> Losses:
        """Return the losses of frozen vectors."""
        losses: Losses = self.loss(self.stack(x_BT), x_BT)
        return losses

    def count_correct(self, x_BT: Tensor) -> tuple[Tensor, int]:
        """Count the rows whose nearest other row in the batch is the same by prefix as by full vector, at each dim."""
        wanted_B = next(_nearest_others(x_BT, (x_BT.shape[1],)))
        found = _nearest_others(self.stack(x_BT), self.dims)
        return torch.stack([(one == wanted_B).sum() for one in found]), len(x_BT)


def _nearest_others(x_BD: Tensor, dims: Sequence[int]) -> Iterator[Tensor]:
    for cosines_BB in partial_cosines(x_BD, x_BD, dims):
        yield cosines_BB.fill_diagonal_(-torch.inf).argmax(1)
