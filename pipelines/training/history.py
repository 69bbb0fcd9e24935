"""History of a training run: results of epochs, reports of steps, throughput, and curves for TensorBoard.

Owns the records that `loop.fit` makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.training.process_group import world_size

_REPORT_EVERY_S = 0.25
_REPORT_EVERY_STEPS = 20


@dataclass(frozen=True)
class EpochResult:
    """Result of one epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Mean weighted loss of its steps.
        loss_by_dim: Mean loss at each dim.
        right_by_dim: Share of correct answers on the validation split at each dim; empty without such a split.
        seconds: Wall-clock of the training, without the validation.
        samples_per_s: Samples trained on per second, by all workers together.
    """

    epoch: int
    loss: float
    loss_by_dim: dict[int, float]
    right_by_dim: dict[int, float]
    seconds: float
    samples_per_s: float


@dataclass(frozen=True)
class StepReport:
    """State of a run at one step.

    Attributes:
        step: Steps done.
        steps: Steps of the whole run.
        loss: Mean loss of the epoch so far.
        samples_per_s: Samples per second since this process started training.
        epoch: Result of the epoch that has just ended, or None.
        saved: Whether a checkpoint has just been written.
    """

    step: int
    steps: int
    loss: float
    samples_per_s: float
    epoch: EpochResult | None = None
    saved: bool = False

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> StepReport:
        """Return the report that `asdict` made a record of."""
        return cls(**{**record, "epoch": record["epoch"] and EpochResult(**record["epoch"])})


Watch = Callable[[StepReport], bool]
"""Receives a report several times a second; returns whether the run must stop now."""


@dataclass
class History:
    """Results of a run.

    Attributes:
        epochs: One result per finished epoch, those before an interruption included.
        is_stopped: Whether the run was stopped before its end; the same call resumes it.
    """

    epochs: list[EpochResult] = field(default_factory=list)
    is_stopped: bool = False


class Throughput:
    """Samples per second, and the steps at which to report."""

    def __init__(self, batch: int) -> None:
        """Start the clock."""
        self._batch, self._began, self._reported = batch, time.monotonic(), 0.0
        self._first: int | None = None

    def is_due(self, step: int) -> bool:
        """Return whether to report at a step."""
        if world_size() > 1:  # workers must report at the same step, and their clocks differ
            return step % _REPORT_EVERY_STEPS == 0
        now = time.monotonic()
        if now - self._reported < _REPORT_EVERY_S:
            return False
        self._reported = now
        return True

    def per_second(self, step: int) -> float:
        """Return the samples per second since the first call, which returns 0: the first step is slower."""
        if self._first is None:
            self._first, self._began = step, time.monotonic()
            return 0.0
        return (step - self._first) * self._batch / max(1e-9, time.monotonic() - self._began)


class Curves:
    """TensorBoard event files of one run, in `<folder>/curves`."""

    def __init__(self, folder: Path | None) -> None:
        """Open the files; without a folder, or without TensorBoard, write nothing."""
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            return
        self._writer = SummaryWriter(str(folder / "curves"))

    def write(self, step: int, epoch: EpochResult, metric: str, lr: float) -> None:
        """Add a point to every curve."""
        if self._writer is None:
            return
        points = {"loss": epoch.loss, "lr": lr, "samples per second": epoch.samples_per_s}
        points |= {f"loss by dim/{dim}": loss for dim, loss in epoch.loss_by_dim.items()}
        points |= {f"{metric}/{dim}": share for dim, share in epoch.right_by_dim.items()}
        for name, value in points.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the files."""
        if self._writer is not None:
            self._writer.close()
