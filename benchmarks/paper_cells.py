"""The models of `benchmarks.paper`: what is trained, with what settings, and their outputs kept on disk.

A cell is one trained model. Its features and logits are kept under a hash of everything that shaped it, so that an
interrupted run goes on with the next cell. Owns training and its cache; owns no measurement.

Shapes: N training images, Q test images, G dims, C classes, D features.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.data import fashion_mnist
from benchmarks.train import KINDS, Stepper
from benchmarks.train import parse as training_options
from pipelines.storage.atomic_files import atomic_path
from pipelines.storage.device import pick_device
from pipelines.training.data import Arrays, shift_and_flip
from pipelines.training.loop import fit
from pipelines.training.optimiser import pick_dtype
from pipelines.training.tasks import ImageClassifier, features
from schemas.config.training import LossConfig, ModelConfig, OptimiserConfig, Recipe, RunConfig

CLASSES = 10


@dataclass(frozen=True)
class Architecture:
    """A backbone and how it is trained.

    Attributes:
        name: What it is called.
        backbone: Its name in `schemas.config.training`.
        dims: The ladder.
        fixed_dims: Dims that get a model of their own.
        epochs: Passes over the training images.
        optimiser: How weights move.
    """

    name: str
    backbone: str
    dims: tuple[int, ...]
    fixed_dims: tuple[int, ...]
    epochs: int
    optimiser: OptimiserConfig

    @property
    def width(self) -> int:
        """Full width of the features."""
        return self.dims[-1]


@dataclass(frozen=True)
class Cell:
    """One model to train.

    Attributes:
        architecture: Its backbone.
        kind: `MRL`, `MRL-E`, or `FF` for a model of one dim.
        dims: Its ladder.
        seed: Of weights, order and augmentation.
        images: Training images, the first of the set.
    """

    architecture: Architecture
    kind: str
    dims: tuple[int, ...]
    seed: int
    images: int

    @property
    def name(self) -> str:
        """Name of its file, without the hash."""
        return f"{self.architecture.name}-{self.kind}-{self.dims[-1]}-seed{self.seed}"

    @property
    def model(self) -> ModelConfig:
        """The backbone; a fixed-feature model below its width ends in a projection, as the paper's do."""
        arch = self.architecture
        width = None if self.dims[-1] == arch.width else self.dims[-1]
        return ModelConfig.model_validate({"image": arch.backbone, "pixels": 28, "channels": 1, "width": width})

    @property
    def loss(self) -> LossConfig:
        """Cross-entropy at every dim of the ladder."""
        return LossConfig(dims=self.dims, tied=self.kind == "MRL-E")

    @property
    def run(self) -> RunConfig:
        """How long it is trained."""
        return RunConfig(epochs=self.architecture.epochs, batch=256, seed=self.seed, tensorboard=False)

    @cached_property
    def digest(self) -> str:
        """Digest of all that shaped it."""
        shaped = [self.model, self.loss, self.run, self.architecture.optimiser]
        text = "\0".join([*(one.model_dump_json() for one in shaped), str(self.images)])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Trained:
    """What a trained model says of the images.

    Attributes:
        cell: The model.
        train_ND: Features of the training images.
        test_QD: Features of the test images.
        logits_GQC: Logits of the test images at each dim.
        seconds: Time of training.
    """

    cell: Cell
    train_ND: npt.NDArray[np.float32]
    test_QD: npt.NDArray[np.float32]
    logits_GQC: npt.NDArray[np.float32]
    seconds: float

    def right_by_dim(self, labels_Q: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Say at each dim which test images the model's own head classifies rightly."""
        right: npt.NDArray[np.float64] = (self.logits_GQC.argmax(2) == labels_Q).astype(np.float64)
        return right


def architectures(*, small: bool) -> tuple[Architecture, ...]:
    """Return what is compared: a ResNet by SGD as in the paper, a ViT by AdamW.

    A ViT learns more slowly: it takes more epochs, and to fit into the hour has no model of its own at 64 dims.
    """
    sgd = OptimiserConfig(name="sgd", lr=0.1, weight_decay=5e-4, warmup_epochs=0.3)
    adamw = OptimiserConfig(name="adamw", lr=2e-3, weight_decay=0.05, warmup_epochs=0.5)
    if small:
        return (
            Architecture("ResNet", "resnet-small", (8, 32, 256), (8, 256), 2, sgd),
            Architecture("ViT", "vit-small", (8, 32, 128), (8, 128), 2, adamw),
        )
    return (
        Architecture("ResNet", "resnet-small", (8, 16, 32, 64, 128, 256), (8, 16, 32, 64, 128, 256), 3, sgd),
        Architecture("ViT", "vit-small", (8, 16, 32, 64, 128), (8, 16, 32, 128), 5, adamw),
    )


def cells_of(architecture: Architecture, seed: int, images: int) -> Iterator[Cell]:
    """Yield every model of an architecture and a seed."""
    yield Cell(architecture, "MRL", architecture.dims, seed, images)
    yield Cell(architecture, "MRL-E", architecture.dims, seed, images)
    for dim in architecture.fixed_dims:
        yield Cell(architecture, "FF", (dim,), seed, images)


def train_cell(cell: Cell, folder: Path) -> None:
    """Train a model and keep what it says of the images in the folder."""
    found = _train(cell)
    with atomic_path(_path(cell, folder)) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **found)


def read_cell(cell: Cell, folder: Path) -> Trained:
    """Read what a trained model said of the images."""
    with np.load(_path(cell, folder)) as kept:
        return Trained(
            cell,
            kept["train"].astype(np.float32),
            kept["test"].astype(np.float32),
            kept["logits"],
            float(kept["seconds"]),
        )


def is_trained(cell: Cell, folder: Path) -> bool:
    """Whether the folder holds what a model said."""
    return _path(cell, folder).exists()


def step_ratio(architecture: Architecture, rounds: int = 30) -> tuple[float, float]:
    """Return how many times as long a step of MRL takes as one of FF at full width, and the same of MRL-E.

    Steps of the three take turns, as in `benchmarks.train`; medians are compared.
    """
    args = training_options(["--backbone", architecture.backbone, "--dims", *map(str, architecture.dims)])
    steppers = [Stepper(kind, args) for kind in KINDS]
    times = np.array([[stepper.step() for stepper in steppers] for _ in range(rounds + 3)])[3:]
    fixed, nested, tied = np.median(times, axis=0)
    return float(nested / fixed), float(tied / fixed)


def _train(cell: Cell) -> dict[str, npt.NDArray[np.generic]]:
    torch.manual_seed(cell.seed)
    model = ImageClassifier(cell.model, cell.loss, CLASSES)
    pixels, labels = _tensors("train", cell.images)
    began = time.perf_counter()
    data = Arrays((pixels, labels), seed=cell.seed, augment=shift_and_flip(1))
    fit(model, data, Recipe(optimiser=cell.architecture.optimiser, run=cell.run))
    seconds = time.perf_counter() - began
    test, _ = fashion_mnist("t10k")
    device = pick_device(cell.run.device, "run.device")
    dtype = pick_dtype(cell.run, device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        train_ND, test_QD = features(model, pixels.numpy()), features(model, test)
    with torch.inference_mode():
        logits = model.loss.heads(torch.from_numpy(test_QD).to(device))
    return {
        "train": train_ND.astype(np.float16),
        "test": test_QD.astype(np.float16),
        "logits": torch.stack(logits).cpu().numpy(),
        "seconds": np.float64(seconds),
    }


def _path(cell: Cell, folder: Path) -> Path:
    return folder / f"{cell.name}-{cell.digest}.npz"


def _tensors(part: str, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = fashion_mnist(part)
    return torch.from_numpy(pixels[:images, ..., None].copy()), torch.from_numpy(labels[:images])
