"""The training loop: from a task and data to trained weights, in one worker.

    fit           epochs of steps, from the checkpoint on; after each epoch a validation
      _take_step  forward and backward, part by part, and one step of the optimiser
      _validate   correct answers by dim on the validation split, over all workers

The same loop runs in one process, and in each worker of an existing process group. Its result depends only on config,
seed and step, so an interrupted run ends with the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.storage.device import pick_device, to_device
from pipelines.training.checkpoints import read_checkpoint, write_checkpoint
from pipelines.training.data import Batch, Data, mix
from pipelines.training.history import Curves, EpochResult, History, StepReport, Throughput, Watch
from pipelines.training.optimiser import lr_factor, make_optimiser, pick_dtype
from pipelines.training.process_group import sum_over_workers, worker_rank, world_size
from pipelines.training.tasks import Task
from schemas.config import ConfigBlock
from schemas.config.training import Recipe
from schemas.errors import RunError
from schemas.redaction import redact


def fit(
    task: Task,
    data: Data,
    recipe: Recipe,
    *,
    valid: Data | None = None,
    folder: Path | None = None,
    watch: Watch = lambda report: False,
) -> History:
    """Train a task in place, and resume where the folder has a checkpoint.

    Args:
        task: Model and loss; ends on the run's device, in evaluation mode.
        data: Training data.
        recipe: Optimiser and run settings; a whole `TrainConfig` is one.
        valid: Validation split, measured after every epoch.
        folder: Folder of the checkpoint and the curves; None keeps nothing.
        watch: Receives reports, and may stop the run.

    Returns:
        The results of all epochs.

    Raises:
        ConfigError: The folder holds a checkpoint of another run, or the device cannot do what is asked.
        RunError: The loss is not finite.

    Example:
        >>> history = fit(ImageClassifier(model, loss, 10), Arrays((images, labels)), Recipe())  # doctest: +SKIP
    """
    return _Fit(task, data, recipe, folder, watch).run(valid)


class _Fit:
    """One call of `fit`: the state of its run."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, folder: Path | None, watch: Watch) -> None:
        self._data, self._recipe, self._folder, self._watch = data, recipe, folder, watch
        self._settings, self._run = recipe.optimiser, recipe.run
        self._device = pick_device(self._run.device, "run.device", worker_rank())
        self._dtype = pick_dtype(self._run, self._device)
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
        curves = Curves(self._folder if worker_rank() == 0 and self._run.tensorboard else None)
        model = self._distributed()
        throughput = Throughput(self._run.batch)
        while self._step < self._steps and not self._history.is_stopped:
            self._epoch(model, throughput, curves, valid)
        self._module.eval()
        curves.close()
        return self._history

    def _epoch(self, model: nn.Module, throughput: Throughput, curves: Curves, valid: Data | None) -> None:
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
            if is_due or throughput.is_due(self._step):
                self._report(throughput, saved=is_due)
            if self._history.is_stopped:
                self._save()
                self._report(throughput, saved=True)
                return
        seconds = time.monotonic() - began
        samples = (self._step - done_before) * self._run.batch
        means = self._means()
        right = {} if valid is None else self._validate(valid)
        done = EpochResult(
            epoch + 1, means[0], dict(zip(self._task.dims, means[1:], strict=True)), right, seconds, samples / seconds
        )
        self._history.epochs.append(done)
        self._sums.zero_()
        curves.write(self._step, done, self._task.metric, self._optimiser.param_groups[0]["lr"])
        self._save()
        self._report(throughput, epoch=done, saved=True)

    def _means(self) -> list[float]:
        """Return the mean loss of the epoch so far, then its parts by dim, over all workers.

        Raises:
            RunError: A loss is not finite.
        """
        steps = self._step % self._per_epoch or self._per_epoch
        means: list[float] = (sum_over_workers(self._sums, self._device) / (steps * world_size())).tolist()
        if not all(map(math.isfinite, means)):
            raise RunError(
                f"the loss is {means[0]} in epoch {len(self._history.epochs) + 1}; that epoch is discarded; "
                "lower optimiser.lr, set optimiser.clip_norm, or run.precision=float32"
            )
        return means

    def _take_step(self, model: nn.Module, batch: Batch) -> Tensor:
        """Update the weights once; return the loss and its parts by dim, on the device."""
        torch.manual_seed(mix(self._run.seed, self._step, worker_rank()))  # makes dropout a function of the step
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
    def _validate(self, valid: Data) -> dict[int, float]:
        self._module.eval()
        counts = torch.zeros(len(self._task.dims) + 1, device=self._device)
        for batch in valid.batches(0, 0, self._run.batch):
            if len(batch[0]):
                with self._autocast():
                    right_G, rows = self._task.count_correct(*self._to_device(batch))
                counts += torch.cat([right_G.float(), torch.tensor([float(rows)], device=self._device)])
        *right, rows_in_all = sum_over_workers(counts, self._device).tolist()
        return {dim: one / max(1.0, rows_in_all) for dim, one in zip(self._task.dims, right, strict=True)}

    def _report(self, throughput: Throughput, *, epoch: EpochResult | None = None, saved: bool = False) -> None:
        """Report the step, and stop if any worker must: all workers stop at the same step."""
        loss = epoch.loss if epoch else self._means()[0]
        must_stop = self._watch(
            StepReport(self._step, self._steps, loss, throughput.per_second(self._step), epoch, saved)
        )
        must_stop = bool(sum_over_workers(float(must_stop), self._device))
        self._history.is_stopped = self._history.is_stopped or (must_stop and self._step < self._steps)

    def _restore(self) -> None:
        state = read_checkpoint(self._folder, self._identity(), _defaults(self._recipe)) if self._folder else None
        if state is None:
            return
        self._module.load_state_dict(state["task"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self._sums.copy_(state["sums"])
        self._step = state["step"]
        self._history.epochs = [EpochResult(**epoch) for epoch in state["epochs"]]

    def _save(self) -> None:
        if self._sums.any():  # the end of an epoch has checked its sums already
            self._means()
        sums = sum_over_workers(self._sums, self._device) / world_size()
        if self._folder is None or worker_rank() != 0:
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
        """Return the settings that a resumed run must keep: all but where it runs and how often it saves."""
        excluded: dict[str, Any] = {
            "out": True,
            "storage": True,
            "run": {"device", "tensorboard", "checkpoint_steps", "workers"},
        }
        settings = {**self._recipe.model_dump(exclude=excluded), "steps": self._steps, "dims": self._task.dims}
        blocks = ((name, block if isinstance(block, dict) else {"": block}) for name, block in settings.items())
        lines = (f"{name}.{key}={value}" for name, block in blocks for key, value in block.items())
        return redact("\n".join(lines))

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
        """Exchange gradients between workers only in the last part of a step."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else nullcontext()

    def _to_device(self, batch: Batch) -> Iterator[Tensor]:
        return (to_device(tensor, self._device) for tensor in batch)


def _defaults(recipe: Recipe) -> dict[str, str]:
    """Return the default of each setting of a recipe's blocks, by the name that it has in a checkpoint.

    For a block within a block, `data.input.` names the defaults of its settings, as a dict.
    """
    defaults = dict[str, str]()
    for name, block in recipe:
        if isinstance(block, ConfigBlock):
            defaults |= {f"{name}.{key}": str(default) for key, default in _field_defaults(block).items()}
            inner = ((key, value) for key, value in block if isinstance(value, ConfigBlock))
            defaults |= {f"{name}.{key}.": str(_field_defaults(value)) for key, value in inner}
    return defaults


def _field_defaults(block: ConfigBlock) -> dict[str, Any]:
    fields = type(block).model_fields.items()
    return {
        key: field.get_default(call_default_factory=True, validated_data={})
        for key, field in fields
        if not field.is_required()
    }
