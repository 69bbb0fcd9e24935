"""Tasks: a model and its nested loss as one module, so that a training step is one call whatever is trained.

A task takes a batch, a tuple of tensors, and returns its losses; `count_correct` counts correct answers at each dim.

Shapes: B rows, H, W, C of pixels, L tokens, D features, G dims.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipelines.encoders.towers import ImageTower, TextTower
from pipelines.training.losses import ClassLoss, Losses, PairLoss, TokenLoss, partial_cosines
from pipelines.vectors.matryoshka import prefix
from schemas.config.training import LossConfig, ModelConfig
from schemas.errors import ConfigError

IGNORED = -100
"""Target of a token that is not masked."""


class Task(Protocol):
    """An `nn.Module` that the loop can train.

    Attributes:
        dims: The ladder.
        metric: Name of what `count_correct` counts, as a share.
    """

    metric: str

    @property
    def dims(self) -> tuple[int, ...]: ...  # noqa: D102

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the `Losses` of a batch."""
        ...

    def count_correct(self, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
        """Return the number of correct answers in a batch at each dim, (G,), and the number of questions."""
        ...


class ImageClassifier(nn.Module):
    """Pixels to classes, at every dim. With one dim it is a fixed-feature model of that width."""

    metric = "top-1"

    def __init__(self, model: ModelConfig, loss: LossConfig, classes: int) -> None:
        """Build the backbone and the heads.

        Raises:
            ConfigError: The ladder is longer than the backbone is wide.
            DependencyMissing: transformers is not installed.
        """
        super().__init__()
        self.tower = ImageTower(model)
        self.dims = check_ladder(loss, self.tower.width)
        self.loss = ClassLoss(self.dims, classes, tied=loss.tied, weights=loss.weights, smoothing=loss.smoothing)

    def forward(self, pixels_BHWC: Tensor, labels_B: Tensor) -> Losses:
        """Return the losses of uint8 images and their int64 classes."""
        losses: Losses = self.loss(self.tower(pixels_BHWC), labels_B)
        return losses

    def count_correct(self, pixels_BHWC: Tensor, labels_B: Tensor) -> tuple[Tensor, int]:
        """Count the images whose class scores highest, at each dim."""
        return count_top1(self.loss.heads(self.tower(pixels_BHWC)), labels_B)


class TwoTower(nn.Module):
    """Images and texts in one space by nested InfoNCE, as ALIGN."""

    metric = "top-1 in the batch"

    def __init__(self, model: ModelConfig, loss: LossConfig, vocabulary: int) -> None:
        """Build both towers.

        Raises:
            ConfigError: The ladder is longer than the towers are wide.
            DependencyMissing: transformers is not installed.
        """
        super().__init__()
        self.image, self.text = ImageTower(model), TextTower(model, vocabulary)
        self.dims = check_ladder(loss, self.image.width)
        self.loss = PairLoss(self.dims, weights=loss.weights, temperature=loss.temperature or 0.07)

    def forward(self, pixels_BHWC: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> Losses:
        """Return the losses of images and their texts."""
        losses: Losses = self.loss(self.image(pixels_BHWC), self.text(ids_BL, mask_BL))
        return losses

    def count_correct(self, pixels_BHWC: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, int]:
        """Count the texts whose nearest image in the batch is their own, at each dim."""
        return count_pairs(self.image(pixels_BHWC), self.text(ids_BL, mask_BL), self.dims)


class MaskedLanguage(nn.Module):
    """Masked language modelling: tokens predicted from prefixes of the hidden state."""

    metric = "masked tokens found"

    def __init__(self, model: ModelConfig, loss: LossConfig, vocabulary: int) -> None:
        """Build the transformer.

        Raises:
            ConfigError: The ladder is longer than the transformer is wide.
            DependencyMissing: transformers is not installed.
        """
        super().__init__()
        if model.width:
            raise ConfigError("model.width: a masked language model nests the hidden state; leave it out")
        self.text = TextTower(model, vocabulary)
        self.dims = check_ladder(loss, self.text.width)
        self.loss = TokenLoss(self.dims, vocabulary, weights=loss.weights)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, targets_BL: Tensor) -> Losses:
        """Return the losses of masked ids; targets are the masked tokens, and `IGNORED` elsewhere."""
        is_masked_BL = targets_BL != IGNORED
        hidden_ND = self.text.hidden(ids_BL, mask_BL)[is_masked_BL]
        losses: Losses = self.loss(hidden_ND, self.text.embedding, targets_BL[is_masked_BL])
        return losses

    def count_correct(self, ids_BL: Tensor, mask_BL: Tensor, targets_BL: Tensor) -> tuple[Tensor, int]:
        """Count the masked tokens that score highest, at each dim."""
        is_masked_BL = targets_BL != IGNORED
        hidden_ND, wanted_N = self.text.hidden(ids_BL, mask_BL)[is_masked_BL], targets_BL[is_masked_BL]
        return count_top1(self.loss.logits(hidden_ND, self.text.embedding), wanted_N)


def count_top1(scores_G: Iterable[Tensor], wanted_B: Tensor) -> tuple[Tensor, int]:
    """Count the rows whose wanted column scores highest, at each dim, (G,), and all rows.

    Args:
        scores_G: Scores (B, C) of each dim.
        wanted_B: int64 column of each row.
    """
    return torch.stack([(scores_BC.argmax(1) == wanted_B).sum() for scores_BC in scores_G]), len(wanted_B)


def count_pairs(left_BD: Tensor, right_BD: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, int]:
    """Count the right rows whose nearest left row in the batch is their own, at each dim."""
    own_B = torch.arange(len(left_BD), device=left_BD.device)
    return count_top1(partial_cosines(right_BD, left_BD, dims), own_B)


def check_ladder(loss: LossConfig, width: int) -> tuple[int, ...]:
    """Return the ladder of a loss, checked against the width of the features.

    Raises:
        ConfigError: The ladder goes beyond the width.
    """
    if loss.dims[-1] > width:
        raise ConfigError(
            f"loss.dims ends at {loss.dims[-1]}, but the model gives {width} features; lower the last dim, "
            "or set model.width"
        )
    return loss.dims


@torch.inference_mode()
def features(model: ImageClassifier, images: npt.NDArray[np.uint8], batch: int = 512) -> npt.NDArray[np.float32]:
    """Return the features of images up to the ladder's end, (N, D) float32, not normalised.

    Args:
        model: Trained; it is put into evaluation mode.
        images: (N, H, W) or (N, H, W, C) uint8.
        batch: Images in one forward pass.
    """
    model.eval()
    chunks = (prefix(model.tower(part), model.dims[-1]).float().cpu() for part in _batches(model, images, batch))
    return np.concatenate([chunk.numpy() for chunk in chunks])


@torch.inference_mode()
def logits_by_dim(model: ImageClassifier, images: npt.NDArray[np.uint8], batch: int = 512) -> npt.NDArray[np.float32]:
    """Return the logits of images at every dim, (G, N, classes) float32."""
    model.eval()
    chunks = (torch.stack(model.loss.heads(model.tower(part))).float().cpu() for part in _batches(model, images, batch))
    return np.concatenate([chunk.numpy() for chunk in chunks], axis=1)


def _batches(model: nn.Module, images: npt.NDArray[np.uint8], batch: int) -> Iterator[Tensor]:
    device = next(model.parameters()).device
    pixels_NHWC = images if images.ndim == 4 else images[..., None]
    return (torch.tensor(pixels_NHWC[at : at + batch], device=device) for at in range(0, len(images), batch))
