"""Batches: what comes when is a function of seed, epoch and step alone, so that a run goes on exactly where it stopped.

Owns order and randomness; the arrays here are in memory, shards and folders are in `pipelines.training.sources`.

Shapes: N rows in all, B rows of a step (of all workers), H, W, C of pixels, L tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.training.ranks import rank, world_size
from pipelines.training.tasks import IGNORED

Batch = tuple[Tensor, ...]


class Data(Protocol):
    """What the loop reads."""

    def steps(self, batch: int) -> int:
        """Return the steps of an epoch, at `batch` samples each over all workers."""
        ...

    def batches(self, epoch: int, first_step: int, batch: int) -> Iterator[Batch]:
        """Yield this worker's part of each step's batch, from a step of an epoch on."""
        ...


class Draws:
    """Random numbers for the rows of a step that are this worker's; the same however many workers share it."""

    def __init__(self, rows: int, own: slice, *key: int) -> None:
        """Seed by the key: seed, epoch, step."""
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
    """Samples that fit into memory: tensors of N rows each, in step with each other.

    Example:
        >>> Arrays((images, labels), seed=0)  # doctest: +SKIP
    """

    def __init__(self, tensors: Batch, *, seed: int = 0, augment: Augment | None = None, shuffle: bool = True) -> None:
        """Keep the tensors.

        Args:
            tensors: What a batch holds, N rows each.
            seed: Of order and augmentation.
            augment: Changes a batch on its way.
            shuffle: Draw a new order each epoch and leave out the few rows that do not fill a step; else all rows come,
                in order.
        """
        self._tensors, self._seed, self._augment, self._shuffle = tensors, seed, augment, shuffle
        self.rows = len(tensors[0])

    def steps(self, batch: int) -> int:
        """Return the steps of an epoch; rows fewer than a batch make one step."""
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
    """Return which rows of a step are this worker's; `evenly` gives every worker as many, and drops what is left."""
    world, place = world_size(), rank()
    if evenly:
        return slice(place * (rows // world), (place + 1) * (rows // world))
    return slice(place * rows // world, (place + 1) * rows // world)


def mix(*key: int) -> int:
    """Return 63 bits that depend on every number of a key."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def shift_and_flip(padding: int = 2, *, flip: bool = True) -> Augment:
    """Return an augmentation of small pictures (B, H, W, C) uint8: moved by up to `padding` pixels, and mirrored."""

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
    """Return an augmentation of (ids, mask) that hides tokens, and adds what they were: (ids, mask, targets).

    Of the tokens chosen, eight tenths become the mask, one tenth another token, one tenth stay.

    Args:
        mask_id: Id of the mask.
        vocabulary: Number of tokens.
        special: Ids below this are never chosen nor put in.
        share: Of the tokens that are chosen.

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
    """Return an augmentation of unit vectors, (B, D) float: a random one of some length is added to each."""

    def augment(batch: Batch, draws: Draws) -> Batch:
        return tuple(
            x + draws.randn(x.shape[1]) * (length / x.shape[1] ** 0.5) if x.is_floating_point() else x for x in batch
        )

    return augment
