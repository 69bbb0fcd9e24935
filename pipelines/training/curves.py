"""Curves for TensorBoard, where it is installed; nothing where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.training.loop import Epoch


class Curves:
    """One run's event files, in `<folder>/curves`."""

    def __init__(self, folder: Path | None) -> None:
        """Open them; without a folder, or without TensorBoard, write nothing."""
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            return
        self._writer = SummaryWriter(str(folder / "curves"))

    def write(self, step: int, epoch: Epoch, metric: str, lr: float) -> None:
        """Add a point to every curve."""
        if self._writer is None:
            return
        points = {"loss": epoch.loss, "lr": lr, "samples per second": epoch.samples_per_s}
        points |= {f"loss by dim/{dim}": loss for dim, loss in epoch.loss_by_dim.items()}
        points |= {f"{metric}/{dim}": share for dim, share in epoch.right_by_dim.items()}
        for name, value in points.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
