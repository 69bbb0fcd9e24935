"""Batches in memory, and augmentations: a function of seed, epoch and step, so that a run resumes exactly.

Owns order, randomness and the `Data` protocol. Batches of shards and folders are in `pipelines.training.batches`.

Shapes: N rows in all, B rows of a step (of all workers), H, W, C of pixels, L tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.training.process_group import worker_rank, world_size
from pipelines.training.tasks import IGNORED

Batch = tuple[Tensor, ...]


class Data(Protocol):
    """Training data or a validation split, as the loop reads it."""

    def steps(self, batch: int) -> int:
        """Return the steps of an epoch, at `batch` samples each over all workers."""
        ...

    def batches(self, epoch: int, first_step: int, batch: int) -> Iterator[Batch]:
        """Yield this worker's part of each step's batch, from a step of an epoch to its end."""
        ...


class Draws:
    """Random numbers for this worker's rows of a step; the same however many workers share the step."""

    def __init__(self, rows: int, own: slice, *key: int) -> None:
        """Draw numbers for all rows of a step and return those of `own`.

        Args:
            rows: Rows of the step, of all workers.
            own: This worker's rows.
            key: Numbers to seed with: seed, epoch, step.
        """
        self._rows, self._own = rows, own
        self._generator = torch.Generator().manual_seed(mix(*key))

    def rand(self, *shape: int) -> Tensor:
        """Return (own rows, *shape) uniform numbers in 0…1."""
        return torch.rand((self._rows, *shape), generator=self._generator)[self._own]

    def randn(self, *shape: int) -> Tensor:
        """Return (own rows, *shape) normal numbers."""
        return torch.randn((self._rows, *shape), generator=self._generator)[self._own]


Augment = Callable[[Batch, Draws], Batch]


class Arrays:
    """Samples in memory: tensors of N rows each, of which row n belongs together.

    Example:
        >>> Arrays((images, labels), seed=0)  # doctest: +SKIP
    """

    def __init__(self, tensors: Batch, *, seed: int = 0, augment: Augment | None = None, shuffle: bool = True) -> None:
        """Keep the tensors.

        Args:
            tensors: Columns of a batch, N rows each.
            seed: Seed of order and augmentation.
            augment: Augmentation of each batch.
            shuffle: Draw a new order each epoch and leave out the last rows that do not fill a step. Without it, all
                rows come in order.
        """
        self._tensors, self._seed, self._augment, self._shuffle = tensors, seed, augment, shuffle
        self.rows = len(tensors[0])

    def steps(self, batch: int) -> int:
        """Return the steps of an epoch; fewer rows than a batch make one step."""
        return max(1, self.rows // batch) if self._shuffle else -(-self.rows // batch)

    def batches(self, epoch: int, first_step: int, batch: int) -> Iterator[Batch]:
        """Yield this worker's rows of each step."""
        order = torch.arange(self.rows)
        if self._shuffle:
            order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(mix(self._seed, epoch)))
        for step in range(first_step, self.steps(batch)):
            rows = order[step * batch : (step + 1) * batch]
            own = own_share(len(rows), evenly=self._shuffle)
            tensors = tuple(tensor[rows[own]] for tensor in self._tensors)
            yield (
                tensors
                if self._augment is None
                else self._augment(tensors, Draws(len(rows), own, self._seed, epoch, step))
            )


def own_share(rows: int, *, evenly: bool) -> slice:
    """Return the rows of a step that are this worker's; `evenly` gives every worker as many and drops the rest."""
    world, place = world_size(), worker_rank()
    if evenly:
        return slice(place * (rows // world), (place + 1) * (rows // world))
    return slice(place * rows // world, (place + 1) * rows // world)


def mix(*key: int) -> int:
    """Hash a key of numbers to 63 bits."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def shift_and_flip(padding: int = 2, *, flip: bool = True) -> Augment:
    """Return an augmentation of small images (B, H, W, C) uint8: shift by up to `padding` pixels, and mirror half."""

    def augment(batch: Batch, draws: Draws) -> Batch:
        pixels_BHWC, *others = batch
        rows, high, wide, _ = pixels_BHWC.shape
        padded = functional.pad(pixels_BHWC, (0, 0, padding, padding, padding, padding))
        corner_B2 = (draws.rand(2) * (2 * padding + 1)).long()
        y_BH = corner_B2[:, :1] + torch.arange(high)
        x_BW = corner_B2[:, 1:] + torch.arange(wide)
        if flip:
            x_BW = torch.where(draws.rand(1) < 0.5, x_BW, x_BW.flip(1))
        return (padded[torch.arange(rows)[:, None, None], y_BH[:, :, None], x_BW[:, None, :]], *others)

    return augment


def mask_tokens(mask_id: int, vocabulary: int, special: int, share: float = 0.15) -> Augment:
    """Return an augmentation that masks tokens: (ids, mask) becomes (ids, mask, targets).

    Of the chosen tokens 80 % become the mask token, 10 % a random token, and 10 % stay.

    Args:
        mask_id: Id of the mask token.
        vocabulary: Number of tokens.
        special: Ids below this one are special tokens, which are neither chosen nor drawn.
        share: Share of the tokens that is chosen.

    Source: Devlin et al. 2019 (arXiv 1810.04805), section 3.1.
    """

    def augment(batch: Batch, draws: Draws) -> Batch:
        ids_BL, mask_BL = batch
        chosen, how, what = (draws.rand(ids_BL.shape[1]) for _ in range(3))
        is_chosen = (chosen < share) & (ids_BL >= special)
        others_BL = special + (what * (vocabulary - special)).long()
        hidden_BL = torch.where(how < 0.8, mask_id, torch.where(how < 0.9, others_BL, ids_BL))
        return torch.where(is_chosen, hidden_BL, ids_BL), mask_BL, torch.where(is_chosen, ids_BL, IGNORED)

    return augment


def add_noise(length: float) -> Augment:
    """Return an augmentation of unit vectors (B, D): add a random vector of about this length to each."""

    def augment(batch: Batch, draws: Draws) -> Batch:
        return tuple(
            x + draws.randn(x.shape[1]) * (length / x.shape[1] ** 0.5) if x.is_floating_point() else x for x in batch
        )

    return augment
