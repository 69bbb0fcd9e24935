"""`python -m jobs train CONFIG`: a Matryoshka model from shards, or a Matryoshka head from the vectors of a table.

    survey    what the config does not say is read from the data once: samples, classes, tokens
    train     one worker in this process, or several through Ray Train; each runs `pipelines.training`'s loop
    save      `<out>/encoder`, which `jobs embed` takes as `encoder.path`

The same command goes on from the last checkpoint, to the same weights as if it had never stopped.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cluster.session import Stop, connect
from jobs.options import ConfigFile, DryRun, Log, Overrides
from pipelines.tables.table import VectorTable
from pipelines.training.checkpoint import FILE
from pipelines.training.frozen import read_frozen
from pipelines.training.loop import Epoch
from pipelines.training.loop import Progress as Reached
from pipelines.training.project import project
from pipelines.training.samples import Survey, survey
from pipelines.training.saved import describe_model, make_task, save_checkpointed
from pipelines.training.train_head import Trained, train_head
from pipelines.training.train_whole import train_whole
from schemas.config import load_config
from schemas.config.training import TrainConfig


def main(
    config_file: ConfigFile, /, *, overrides: Overrides = None, dry_run: DryRun = False, log: Log = "screen"
) -> int:
    """Train a Matryoshka model on shards, or a head on the vectors of a table; the same command resumes.

    A resumed run ends with the same weights as one that never stopped.
    """
    config = load_config(TrainConfig, config_file, overrides or ())
    console = Console(stderr=log == "json", highlight=False)
    if dry_run:
        _print_plan(config, console)
        return 0
    is_stopped = run(config, console, log=log)
    if is_stopped:
        console.print("stopped as asked; the same command goes on from here")
        return 130
    return 0


def run(config: TrainConfig, console: Console, *, log: str = "screen") -> bool:
    """Train what the config says.

    Returns:
        Whether it was stopped on request before its end.

    Raises:
        ConfigError: The settings do not fit together, or `out` holds a checkpoint of another run.
        InputError: The data cannot be read.
        RunError: Training broke down.
    """
    if config.is_head:
        with _Screen(console, log) as screen, Stop() as stop:
            trained = train_head(config, lambda reached: screen.show(reached) or stop.is_asked)
        if not trained.is_stopped:
            print_head(trained, console)
            if config.into and config.data.table:
                rows = project(VectorTable.open(config.data.table, storage=config.storage), trained.path, config.into)
                console.print(f"{config.into}: {rows:,} rows through the head")
        return trained.is_stopped
    known = survey(config)
    console.print(f"{known.samples:,} samples" + (f", {len(known.classes)} classes" if known.classes else ""))
    is_stopped = _train_together(config, known, console, log) if config.run.workers > 1 else None
    if is_stopped is None:
        with _Screen(console, log) as screen, Stop() as stop:
            is_stopped = train_whole(config, known, lambda reached: screen.show(reached) or stop.is_asked).is_stopped
    if not is_stopped:
        console.print(f"saved: encoder.name=matryoshka-model encoder.path={config.out}/encoder", soft_wrap=True)
    return is_stopped


def print_head(trained: Trained, console: Console) -> None:
    """Show what a head finds on the rows held out, and beside it what needs no training."""
    if trained.by_dim:
        grid = Table("dims", trained.measure, *([trained.beside] if trained.before else []))
        for dim, share in trained.by_dim.items():
            before = [f"{trained.before[dim]:.3f}"] if dim in trained.before else [""] * bool(trained.before)
            grid.add_row(str(dim), f"{share:.3f}", *before)
        console.print(f"on {trained.held_out:,} rows held out:")
        console.print(grid)
    console.print(f"saved: encoder.name=matryoshka-head encoder.path={trained.path}", soft_wrap=True)


def _train_together(config: TrainConfig, known: Survey, console: Console, log: str) -> bool:
    """Train on several workers, and save the model out of their last checkpoint; return whether they were stopped."""
    # Ray Train brings pandas; who trains in this process needs neither.
    from cluster.training import train_together

    with connect(), _Screen(console, log) as screen, Stop() as stop:

        def show(report: dict[str, Any]) -> bool:
            epoch = report["epoch"] and Epoch(**report["epoch"])
            screen.show(Reached(**{**report, "epoch": epoch}))
            return stop.is_asked

        train_together(partial(_work, config, known), config.run.workers, Path(config.out), show)
    return not save_checkpointed(config, known)


def _work(config: TrainConfig, known: Survey, scratch: Path, tell: Any) -> None:
    """Be one of several workers."""
    own = config.model_copy(update={"out": str(scratch)})
    train_whole(own, known, lambda reached: tell(asdict(reached), scratch / FILE if reached.saved else None))


def _print_plan(config: TrainConfig, console: Console) -> None:
    """Say what would be done; the data is read for it, the model is built."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("kind", config.kind)
    if config.is_head:
        frozen = read_frozen(config)
        rows, held = len(frozen.vectors_NT), int(frozen.is_held_out_N.sum())
        grid.add_row("table", f"{frozen.table.uri}: {rows:,} vectors of {frozen.vectors_NT.shape[1]} dims")
        grid.add_row("learnt from", f"{rows - held:,} rows, {held:,} held out")
        samples = rows - held
    else:
        known = survey(config)
        task = make_task(describe_model(config, known))
        grid.add_row("model", f"{sum(p.numel() for p in task.parameters()):,} parameters")
        grid.add_row("learnt from", f"{known.samples:,} samples, {len(known.classes)} classes")
        samples = known.samples
    steps = max(1, samples // config.run.batch)
    grid.add_row("ladder", ", ".join(map(str, config.loss.dims)))
    grid.add_row("steps", f"{config.run.epochs} epochs of {steps:,}, {config.run.batch} samples each")
    grid.add_row("out", f"{config.out}/encoder")
    console.print(grid, soft_wrap=True)


class _Screen:
    """A bar for a person, with a line for each epoch; or a line of JSON for each."""

    def __init__(self, console: Console, log: str) -> None:
        self._console, self._is_json = console, log == "json"
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps  loss [cyan]{task.fields[loss]}[/]  [cyan]{task.fields[rate]}[/] samples/s"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=self._is_json)
        self._bar = self._progress.add_task("train", total=None, loss="–", rate="–")

    def __enter__(self) -> _Screen:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, reached: Reached) -> bool:
        """Show where training is; return False, so that it can stand where a request to stop would."""
        rate = f"{reached.samples_per_s:,.0f}"
        self._progress.update(
            self._bar, total=reached.steps, completed=reached.step, loss=f"{reached.loss:.3f}", rate=rate
        )
        if self._is_json:
            sys.stdout.write(json.dumps({"time": round(time.time(), 3), "job": "train"} | asdict(reached)) + "\n")
            sys.stdout.flush()
        elif reached.epoch is not None:
            self._progress.console.print(_line(reached.epoch))
        return False


def _line(epoch: Epoch) -> str:
    shares = "  ".join(f"{dim}: {share:.1%}" for dim, share in epoch.right_by_dim.items())
    return f"epoch {epoch.epoch:>3}  loss {epoch.loss:.3f}  {epoch.seconds:.1f} s  {shares}"
