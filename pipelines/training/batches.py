"""Batches of shards and folders: samples decoded, cropped and tokenised in threads, ahead of the training steps.

Shapes: B rows of this worker, H, W of pixels, L tokens.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pipelines.embedding.rejects import is_over_limit
from pipelines.encoders import BadSample
from pipelines.encoders.image_preprocessing import decode, decode_box
from pipelines.encoders.towers import tower_image_rule
from pipelines.storage.prefetch import Prefetcher
from pipelines.training.data import Batch, Data, Draws, mask_tokens, mix
from pipelines.training.process_group import worker_rank
from pipelines.training.samples import FolderOrder, Sample, ShardOrder, Survey, list_folder, number_of
from pipelines.training.tokenizer import MASK, SPECIAL, to_ids
from schemas.config.training import TrainConfig
from schemas.errors import TooManyRejects

_AHEAD = 2
_AREA, _PROPORTION = (0.25, 1.0), (3 / 4, 4 / 3)


def make_data(config: TrainConfig, known: Survey, *, is_valid: bool = False) -> Data:
    """Return the training data of a config, or its validation split.

    Raises:
        InputError: The data cannot be listed.
    """
    patterns = config.data.valid if is_valid else config.data.train
    order: FolderOrder | ShardOrder
    if config.data.input is None:
        order = FolderOrder(list_folder(patterns), config.run.seed, shuffle=not is_valid)
    else:
        order = ShardOrder(config, patterns, known.samples, shuffle=not is_valid)
    return FileBatches(config, known, order, is_valid=is_valid)


class FileBatches:
    """Batches of samples in shards or image files."""

    def __init__(self, config: TrainConfig, known: Survey, order: FolderOrder | ShardOrder, *, is_valid: bool) -> None:
        """Keep the order of the samples, and whatever turns them into tensors."""
        self._config, self._order, self._is_valid = config, order, is_valid
        self._classes = {name: number for number, name in enumerate(known.classes)}
        self._tokenizer = Tokenizer.from_str(known.tokenizer) if known.tokenizer else None
        self._rule = tower_image_rule(config.model.pixels)
        self._seen = self._bad = 0

    def steps(self, batch: int) -> int:
        """Return the steps of an epoch."""
        return max(1, self._order.samples // batch)

    def batches(self, epoch: int, first_step: int, batch: int) -> Iterator[Batch]:
        """Yield this worker's part of each step, prepared while the steps before it run."""
        ahead = Prefetcher(self._prepared(epoch, first_step, batch), _AHEAD, "prepare")
        with closing(ahead):
            yield from ahead

    def _prepared(self, epoch: int, first_step: int, batch: int) -> Iterator[Batch]:
        drawn: Iterator[tuple[int, list[Sample]]] = enumerate(self._order.draw(epoch, first_step, batch), first_step)
        if not self._is_valid:
            drawn = islice(drawn, self.steps(batch) - first_step)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for step, samples in drawn:
                if samples:
                    yield self._tensors(samples, (self._config.run.seed, epoch, step, worker_rank()), threads)

    def _tensors(self, samples: Sequence[Sample], key: tuple[int, ...], threads: ThreadPoolExecutor) -> Batch:
        if self._config.kind == "mlm":
            return self._masked([str(sample.input) for sample in samples], key)
        rng = [random.Random(mix(*key, row)) for row in range(len(samples))]
        images = list(threads.map(self._decode, samples, rng))
        good = [row for row, image in enumerate(images) if not isinstance(image, BadSample)]
        self._count(images, len(good))
        # All workers need batches of one size: another sample takes the place of a bad one.
        rows = [row if not isinstance(image, BadSample) else good[row % len(good)] for row, image in enumerate(images)]
        pixels = torch.from_numpy(np.stack([cast("npt.NDArray[np.uint8]", images[row]) for row in rows]))
        extras = [samples[row].extra for row in rows]
        if self._config.kind == "classify":
            return pixels, torch.tensor([number_of(extra, self._classes) for extra in extras])
        return pixels, *self._ids(extras)

    def _decode(self, sample: Sample, rng: random.Random) -> npt.NDArray[np.uint8] | BadSample:
        most = self._config.limits.max_pixels
        try:
            data = sample.input.read_bytes() if isinstance(sample.input, Path) else cast(bytes, sample.input)
            if self._is_valid or not self._config.data.augment:
                return decode(data, self._rule, most)
            image = decode_box(data, lambda wide, high: random_box(wide, high, rng), self._rule.crop[0], most)
            return image[:, ::-1] if rng.random() < 0.5 else image
        except (BadSample, OSError) as bad:
            return bad if isinstance(bad, BadSample) else BadSample("unreadable", str(bad))

    def _ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return to_ids(cast(Tokenizer, self._tokenizer), texts, self._config.model.max_length)

    def _masked(self, texts: Sequence[str], key: tuple[int, ...]) -> Batch:
        tokenizer = cast(Tokenizer, self._tokenizer)
        mask = mask_tokens(cast(int, tokenizer.token_to_id(MASK)), tokenizer.get_vocab_size(), len(SPECIAL))
        return mask(self._ids(texts), Draws(len(texts), slice(None), *key))

    def _count(self, images: Sequence[object], good: int) -> None:
        """Count bad samples against the limit.

        Raises:
            TooManyRejects: They are more than `limits.max_reject_fraction` allows.
        """
        self._seen += len(images)
        self._bad += len(images) - good
        most = self._config.limits.max_reject_fraction
        if not good or is_over_limit(self._bad, self._seen, most):
            first = next(image for image in images if isinstance(image, BadSample))
            raise TooManyRejects(
                f"{self._bad} of {self._seen} samples cannot be decoded, more than limits.max_reject_fraction={most} "
                "allows",
                str(first),
            )


def random_box(wide: int, high: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Draw left, top, right and bottom of a crop: 25 to 100 % of the area, with sides from 3:4 to 4:3.

    Source: Szegedy et al. 2014 (arXiv 1409.4842), section 6.
    """
    for _ in range(10):
        area = wide * high * rng.uniform(*_AREA)
        proportion = rng.uniform(*_PROPORTION)
        w, h = round((area * proportion) ** 0.5), round((area / proportion) ** 0.5)
        if 0 < w <= wide and 0 < h <= high:
            left, top = rng.randint(0, wide - w), rng.randint(0, high - h)
            return left, top, left + w, top + h
    short = min(wide, high)
    left, top = (wide - short) // 2, (high - short) // 2
    return left, top, left + short, top + short
