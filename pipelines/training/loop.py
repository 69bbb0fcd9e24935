"""The loop: one worker's way from a task and data to trained weights.

    fit           epochs of steps from where the checkpoint stands, a measurement after each epoch
      _step       forward and backward, part by part, and one move of the optimiser
      _measure    right answers by dim on data held out, of all workers together

The same loop runs in one process, and in each worker of a process group that stands when it is called. Nothing it does
depends on anything but the config, the seed and the step, so a run that was interrupted ends with the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.storage.device import pick_device
from pipelines.training.checkpoint import read_checkpoint, write_checkpoint
from pipelines.training.curves import Curves
from pipelines.training.data import Batch, Data, mix
from pipelines.training.ranks import rank, total_over_ranks, world_size
from pipelines.training.schedule import lr_factor, make_optimiser
from pipelines.training.tasks import Task
from schemas.config.training import Recipe, RunConfig
from schemas.errors import ConfigError, RunError

_SHOWN_EVERY_S = 0.25
_SHOWN_EVERY_STEPS = 20


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        epoch: From 1.
        loss: Mean weighed loss of its steps.
        loss_by_dim: Mean loss at each dim.
        right_by_dim: Share of right answers on the data held out at each dim; empty without such data.
        seconds: Wall-clock of its training, without the measurement.
        samples_per_s: Samples trained on per second, of all workers.
    """

    epoch: int
    loss: float
    loss_by_dim: dict[int, float]
    right_by_dim: dict[int, float]
    seconds: float
    samples_per_s: float


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        loss: Loss of the last step that was looked at.
        samples_per_s: Samples per second since this process began.
        epoch: The epoch that has just been measured, or None.
        saved: Whether a checkpoint has just been written.
    """

    step: int
    steps: int
    loss: float
    samples_per_s: float
    epoch: Epoch | None = None
    saved: bool = False


Watch = Callable[[Progress], bool]
"""Told how a run goes, several times a second; returns whether it is to stop here."""


@dataclass
class History:
    """How a run went.

    Attributes:
        epochs: One entry per epoch done, those before an interruption included.
        is_stopped: It was asked to stop before its end; the same call goes on.
    """

    epochs: list[Epoch] = field(default_factory=list)
    is_stopped: bool = False


def fit(
    task: Task,
    data: Data,
    recipe: Recipe,
    *,
    valid: Data | None = None,
    folder: Path | None = None,
    watch: Watch = lambda progress: False,
) -> History:
    """Train a task in place.

    Args:
        task: Model and loss; ends on the run's device, in evaluation mode.
        data: What it learns from.
        recipe: How weights move, for how long, on what; a whole `TrainConfig` is one.
        valid: Data held out, measured after every epoch.
        folder: Where the checkpoint and the curves go, and where a run goes on from; None keeps nothing.
        watch: Told how it goes.

    Returns:
        The measurements.

    Raises:
        ConfigError: The folder holds a checkpoint of another run, or the device cannot do what is asked.
        RunError: The loss is no longer a number.

    Example:
        >>> history = fit(ImageClassifier(model, loss, 10), Arrays((images, labels)), Recipe())  # doctest: +SKIP
    """
    return _Fit(task, data, recipe, folder, watch).run(valid)


def dtype_of(run: RunConfig, device: torch.device) -> torch.dtype:
    """Return the arithmetic of a run's products.

    Raises:
        ConfigError: fp16 is asked of a CPU.
    """
    if run.precision == "auto":
        has_fast_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if has_fast_bf16 else torch.float32
    if run.precision == "float16" and device.type == "cpu":
        raise ConfigError("run.precision=float16 needs a GPU; allowed on a CPU: float32, bfloat16")
    return cast(torch.dtype, getattr(torch, run.precision))


class _Fit:
    """One call of `fit`."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, folder: Path | None, watch: Watch) -> None:
        self._data, self._recipe, self._folder, self._watch = data, recipe, folder, watch
        self._settings, self._run = recipe.optimiser, recipe.run
        self._device = pick_device(self._run.device, "run.device", rank())
        self._dtype = dtype_of(self._run, self._device)
        self._task = task
        self._module = cast(nn.Module, task).to(self._device)
        self._optimiser = make_optimiser(self._module, self._settings)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._dtype == torch.float16)
        self._per_epoch = data.steps(self._run.batch)
        self._steps = self._per_epoch * self._run.epochs
        self._history = History()
        self._step = 0
        self._sums = torch.zeros(1 + len(task.dims), device=self._device)

    def run(self, valid: Data | None) -> History:
        self._restore()
        if self._step == self._steps:
            self._module.eval()
            return self._history
        curves = Curves(self._folder if rank() == 0 and self._run.tensorboard else None)
        model = self._distributed()
        pace = _Pace(self._run.batch)
        while self._step < self._steps and not self._history.is_stopped:
            self._epoch(model, pace, curves, valid)
        self._module.eval()
        curves.close()
        return self._history

    def _epoch(self, model: nn.Module, pace: _Pace, curves: Curves, valid: Data | None) -> None:
        epoch, first = divmod(self._step, self._per_epoch)
        began, done_before = time.monotonic(), self._step
        self._module.train()
        for batch in self._data.batches(epoch, first, self._run.batch):
            self._sums += self._take_step(model, batch)
            self._step += 1
            if self._step % self._per_epoch == 0:
                break
            every = self._run.checkpoint_steps
            is_due = bool(every and self._step % every == 0)
            if is_due:
                self._save()
            if is_due or pace.is_due(self._step):
                self._tell(pace, saved=is_due)
            if self._history.is_stopped:
                self._save()
                self._tell(pace, saved=True)
                return
        seconds = time.monotonic() - began
        samples = (self._step - done_before) * self._run.batch
        means = self._means()
        right = {} if valid is None else self._measure(valid)
        done = Epoch(
            epoch + 1, means[0], dict(zip(self._task.dims, means[1:], strict=True)), right, seconds, samples / seconds
        )
        self._history.epochs.append(done)
        self._sums.zero_()
        curves.write(self._step, done, self._task.metric, self._optimiser.param_groups[0]["lr"])
        self._save()
        self._tell(pace, epoch=done, saved=True)

    def _means(self) -> list[float]:
        """Return the mean loss of the epoch's steps so far, and its parts by dim, over all workers.

        Raises:
            RunError: It is no number: nothing after it is worth keeping.
        """
        steps = self._step % self._per_epoch or self._per_epoch
        means: list[float] = (total_over_ranks(self._sums, self._device) / (steps * world_size())).tolist()
        if not all(map(math.isfinite, means)):
            raise RunError(
                f"the loss is {means[0]} in epoch {len(self._history.epochs) + 1}; nothing of that is kept; "
                "lower optimiser.lr, set optimiser.clip_norm, or run.precision=float32"
            )
        return means

    def _take_step(self, model: nn.Module, batch: Batch) -> Tensor:
        """Move the weights once; return the loss and its parts by dim, still on the device."""
        torch.manual_seed(mix(self._run.seed, self._step, rank()))  # what dropout draws is a function of the step
        factor = lr_factor(self._settings, self._step, self._per_epoch, self._run.epochs)
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.lr * factor
        parts = list(zip(*(tensor.chunk(self._run.accumulate) for tensor in batch), strict=True))
        total = torch.zeros_like(self._sums)
        for number, part in enumerate(parts):
            with self._sync(model, is_last=number == len(parts) - 1):
                with self._autocast():
                    losses = model(*self._to_device(part))
                self._scaler.scale(losses.total / len(parts)).backward()
            total += torch.cat([losses.total.detach()[None], losses.by_dim]).float() / len(parts)
        if self._settings.clip_norm is not None:
            self._scaler.unscale_(self._optimiser)
            nn.utils.clip_grad_norm_(self._module.parameters(), self._settings.clip_norm)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        return total

    @torch.no_grad()
    def _measure(self, valid: Data) -> dict[int, float]:
        self._module.eval()
        counts = torch.zeros(len(self._task.dims) + 1, device=self._device)
        for batch in valid.batches(0, 0, self._run.batch):
            if len(batch[0]):
                with self._autocast():
                    right_G, rows = self._task.judge(*self._to_device(batch))
                counts += torch.cat([right_G.float(), torch.tensor([float(rows)], device=self._device)])
        *right, rows_in_all = total_over_ranks(counts, self._device).tolist()
        return {dim: one / max(1.0, rows_in_all) for dim, one in zip(self._task.dims, right, strict=True)}

    def _tell(self, pace: _Pace, *, epoch: Epoch | None = None, saved: bool = False) -> None:
        """Show where the run is, and hear whether it is to stop: every worker at the same step, or none."""
        loss = epoch.loss if epoch else self._means()[0]
        asked = self._watch(Progress(self._step, self._steps, loss, pace.per_second(self._step), epoch, saved))
        asked = bool(total_over_ranks(float(asked), self._device))
        self._history.is_stopped = self._history.is_stopped or (asked and self._step < self._steps)

    def _restore(self) -> None:
        state = read_checkpoint(self._folder, self._identity()) if self._folder else None
        if state is None:
            return
        self._module.load_state_dict(state["task"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self._sums.copy_(state["sums"])
        self._step = state["step"]
        self._history.epochs = [Epoch(**epoch) for epoch in state["epochs"]]

    def _save(self) -> None:
        if self._sums.any():  # at the end of an epoch its sums have been taken already
            self._means()
        sums = total_over_ranks(self._sums, self._device) / world_size()
        if self._folder is None or rank() != 0:
            return
        state = {
            "identity": self._identity(),
            "task": self._module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "sums": sums,
            "step": self._step,
            "epochs": [asdict(epoch) for epoch in self._history.epochs],
        }
        write_checkpoint(self._folder, state)

    def _identity(self) -> str:
        """What a run that goes on must agree on with the one before: not where it runs, nor how often it saves."""
        free: dict[str, Any] = {
            "out": True,
            "storage": True,
            "run": {"device", "tensorboard", "checkpoint_steps", "workers"},
        }
        said = {**self._recipe.model_dump(exclude=free), "steps": self._steps, "dims": self._task.dims}
        blocks = ((name, block if isinstance(block, dict) else {"": block}) for name, block in said.items())
        return "\n".join(f"{name}.{key}={value}" for name, block in blocks for key, value in block.items())

    def _distributed(self) -> nn.Module:
        if world_size() == 1:
            return self._module
        ids = [self._device.index] if self._device.type == "cuda" else None
        return DistributedDataParallel(self._module, device_ids=ids)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def _sync(self, model: nn.Module, *, is_last: bool) -> AbstractContextManager[object]:
        """Let workers exchange gradients at a step's last part only."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else nullcontext()

    def _to_device(self, batch: Batch) -> Iterator[Tensor]:
        if self._device.type == "cpu":
            return iter(batch)
        return (tensor.pin_memory().to(self._device, non_blocking=True) for tensor in batch)


class _Pace:
    """Says when it is time to show something, and how fast it went since the beginning."""

    def __init__(self, batch: int) -> None:
        self._batch, self._began, self._shown = batch, time.monotonic(), 0.0
        self._first: int | None = None

    def is_due(self, step: int) -> bool:
        if world_size() > 1:  # they must agree on it, and their clocks do not
            return step % _SHOWN_EVERY_STEPS == 0
        now = time.monotonic()
        if now - self._shown < _SHOWN_EVERY_S:
            return False
        self._shown = now
        return True

    def per_second(self, step: int) -> float:
        if self._first is None:
            self._first, self._began = step, time.monotonic()
            return 0.0
        return (step - self._first) * self._batch / max(1e-9, time.monotonic() - self._began)
