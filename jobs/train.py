"""`mlake train CONFIG`: train a Matryoshka model on shards, or a head on the vectors of a table.

    survey    count samples and classes and train the tokeniser, as far as the config does not give them
    train     one worker in this process, or several through Ray Train; each runs the loop of `pipelines.training`
    save      `<out>/encoder`, which `mlake embed` takes as `encoder.path`

The same command resumes from the last checkpoint and ends with the same weights as a run that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from cluster.session import Stop, connect
from jobs.options import ConfigFile, DryRun, Flag, Log, Overrides
from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line
from pipelines.reports.progress import LogFormat
from pipelines.reports.training import TrainingScreen, head_record, print_head, print_plan
from pipelines.tables.table import VectorTable
from pipelines.training.apply_head import apply_head
from pipelines.training.history import StepReport
from pipelines.training.samples import Survey, survey
from pipelines.training.train_head import TrainedHead, train_head
from pipelines.training.train_model import save_checkpointed, train_model, train_worker
from schemas.config import check_given, load_config
from schemas.config.training import TrainConfig


def main(
    config_file: ConfigFile,
    /,
    *,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    log: Log = "auto",
) -> int:
    """Train a Matryoshka model on shards, or a head on the vectors of a table; the same command resumes.

    A resumed run ends with the same weights as one that never stopped.

    Args:
        as_json: Print where the encoder is, and of a head its quality by dim, as one JSON object.
    """
    config = load_config(TrainConfig, config_file, overrides or ())
    console = open_console(is_error=as_json or log == "json")
    if dry_run:
        print_plan(config, console)
        return 0
    trained = _train(config, console, log)
    if trained.is_stopped:
        console.print("stopped as asked; the same command resumes")
        return 130
    if as_json:
        print(json_line(head_record(trained)))
    return 0


def run(config: TrainConfig, console: Console | None = None, *, log: LogFormat = "screen") -> bool:
    """Train a head or a whole model, as the config says.

    Returns:
        Whether it was stopped on request before its end.

    Raises:
        ConfigError: The settings do not fit together, or `out` holds a checkpoint of another run.
        InputError: The data cannot be read.
        RunError: Training failed.

    Example:
        >>> train(load_config(TrainConfig, "jobs/configs/train/head-from-pairs.toml"))  # doctest: +SKIP
    """
    check_given(TrainConfig, config=config)
    return _train(config, console or open_console(), log).is_stopped


def _train(config: TrainConfig, console: Console, log: LogFormat) -> TrainedHead:
    return (_train_head if config.is_head else _train_model)(config, console, log)


def _train_head(config: TrainConfig, console: Console, log: LogFormat) -> TrainedHead:
    with TrainingScreen(console, log) as screen, Stop() as stop:
        trained = train_head(config, partial(_watch, screen, stop))
    if trained.is_stopped:
        return trained
    print_head(trained, console)
    if config.into and config.data.table:
        source = VectorTable.open(config.data.table, storage=config.storage, trust=config.data.trust)
        console.print(f"{config.into}: {apply_head(source, trained.path, config.into):,} rows through the head")
    return trained


def _train_model(config: TrainConfig, console: Console, log: LogFormat) -> TrainedHead:
    known = survey(config)
    console.print(f"{known.samples:,} samples" + (f", {len(known.classes)} classes" if known.classes else ""))
    has_workers = config.run.workers > 1
    # Ray replaces signal handlers when it starts, so `Stop` installs its own after that.
    session: AbstractContextManager[object] = connect() if has_workers else nullcontext()
    with session, TrainingScreen(console, log) as screen, Stop() as stop:
        watch = partial(_watch, screen, stop)
        if has_workers:
            is_stopped = _train_on_workers(config, known, watch)
        else:
            is_stopped = train_model(config, known, watch).is_stopped
    if not is_stopped:
        console.print(f"saved: encoder.name=matryoshka-model encoder.path={config.out}/encoder", soft_wrap=True)
    return TrainedHead(Path(config.out) / "encoder", is_stopped=is_stopped)


def _watch(screen: TrainingScreen, stop: Stop, report: StepReport) -> bool:
    """Show a report; return whether a stop was requested."""
    screen.show(report)
    return stop.is_asked


def _train_on_workers(config: TrainConfig, known: Survey, watch: Callable[[StepReport], bool]) -> bool:
    """Train on several workers and save the model of their last checkpoint; return whether they were stopped."""
    # Ray Train needs pandas; training in this process does not.
    from cluster.training import train_together

    train_together(
        partial(train_worker, config, known),
        config.run.workers,
        Path(config.out),
        lambda record: watch(StepReport.from_record(record)),
    )
    return not save_checkpointed(config, known)
