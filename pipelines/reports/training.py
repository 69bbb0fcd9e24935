"""Terminal output of `mlake train`: the plan, progress, and the quality of a head.

Owns what is printed. Does not train.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipelines.reports.json_lines import json_line
from pipelines.reports.progress import LogFormat, json_stream
from pipelines.training.head_data import read_head_data
from pipelines.training.history import EpochResult, StepReport
from pipelines.training.samples import survey
from pipelines.training.train_head import TrainedHead
from pipelines.training.train_model import describe_model, make_task
from schemas.config.training import TrainConfig

_LINES_EVERY_S = 15.0


class TrainingScreen:
    """A progress bar with a line for each epoch, or a line of JSON for each report."""

    def __init__(self, console: Console, log: LogFormat) -> None:
        """Prepare the bar.

        Args:
            console: Where the bar is shown.
            log: As `--log` says; lines of JSON on the error stream come every 15 seconds, and with each epoch.
        """
        self._stream = json_stream(log)
        self._is_json, self._due_at = log == "json", 0.0
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps  loss [cyan]{task.fields[loss]}[/]  [cyan]{task.fields[rate]}[/] samples/s"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=self._is_json)
        self._bar = self._progress.add_task("train", total=None, loss="–", rate="–")

    def __enter__(self) -> TrainingScreen:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Remove the bar; the lines of the epochs stay."""
        self._progress.stop()

    def show(self, report: StepReport) -> None:
        """Show a report."""
        rate = f"{report.samples_per_s:,.0f}"
        self._progress.update(
            self._bar, total=report.steps, completed=report.step, loss=f"{report.loss:.3f}", rate=rate
        )
        is_due = self._is_json or report.epoch is not None or time.monotonic() >= self._due_at
        if self._stream is not None and is_due:
            self._due_at = time.monotonic() + _LINES_EVERY_S
            self._stream.write(json_line({"time": round(time.time(), 3), "job": "train"} | asdict(report)) + "\n")
            self._stream.flush()
        if report.epoch is not None and not self._is_json:
            self._progress.console.print(_epoch_line(report.epoch))


def head_record(trained: TrainedHead) -> dict[str, object]:
    """Return what `print_head` prints as a record for programs; of a whole model, where its encoder is."""
    if not trained.by_dim:
        return {"encoder_path": trained.path}
    measures = {name: getattr(trained, name) for name in ("by_dim", "before", "pca")}
    said = {"measure": trained.measure, "held_out": trained.held_out, "beside": trained.beside}
    return {"encoder_path": trained.path} | said | measures | {"idle_dims": trained.idle_dims}


def print_head(trained: TrainedHead, console: Console) -> None:
    """Print the quality of a head on the validation split beside its baselines, and say where it does not pay."""
    if trained.by_dim:
        columns = {trained.measure: trained.by_dim, trained.beside: trained.before, "a PCA of them": trained.pca}
        shown = {name: by_dim for name, by_dim in columns.items() if by_dim}
        grid = Table("dims", *shown)
        for dim in trained.by_dim:
            grid.add_row(str(dim), *(f"{by_dim[dim]:.3f}" if dim in by_dim else "" for by_dim in shown.values()))
        console.print(f"on a validation split of {trained.held_out:,} rows:")
        console.print(grid)
    if idle := trained.idle_dims:
        figures = ", ".join(
            f"{dim} dims ({trained.by_dim[dim]:.3f}, {trained.best_untrained(dim):.3f})" for dim in idle
        )
        console.print(f"the head does not pay at {figures} (with it, and without)", soft_wrap=True)
    console.print(f"saved: encoder.name=matryoshka-head encoder.path={trained.path}", soft_wrap=True)


def print_plan(config: TrainConfig, console: Console) -> None:
    """Print what a run would do; the data is read and the model is built for it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("kind", config.kind)
    if config.is_head:
        data = read_head_data(config)
        rows, held = len(data.vectors_NT), int(data.is_held_out_N.sum())
        grid.add_row("table", f"{data.table.uri}: {rows:,} vectors of {data.vectors_NT.shape[1]} dims")
        grid.add_row("training data", f"{rows - held:,} rows; {held:,} in the validation split")
        samples = rows - held
    else:
        known = survey(config)
        task = make_task(describe_model(config, known))
        grid.add_row("model", f"{sum(p.numel() for p in task.parameters()):,} parameters")
        grid.add_row("training data", f"{known.samples:,} samples, {len(known.classes)} classes")
        samples = known.samples
    steps = max(1, samples // config.run.batch)
    grid.add_row("ladder", ", ".join(map(str, config.loss.dims)))
    grid.add_row("steps", f"{config.run.epochs} epochs of {steps:,}, {config.run.batch} samples each")
    grid.add_row("out", f"{config.out}/encoder")
    console.print(grid, soft_wrap=True)


def _epoch_line(epoch: EpochResult) -> str:
    shares = "  ".join(f"{dim}: {share:.1%}" for dim, share in epoch.right_by_dim.items())
    return f"epoch {epoch.epoch:>3}  loss {epoch.loss:.3f}  {epoch.seconds:.1f} s  {shares}"
