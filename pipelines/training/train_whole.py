"""Training a whole model: build it, read the data, fit, save what `jobs embed` loads. One worker's part of it.

Owns the order of these steps. Several workers run it side by side, in a process group that somebody else has made.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.training.loop import History, Watch, fit
from pipelines.training.ranks import rank
from pipelines.training.samples import Survey
from pipelines.training.saved import describe_model, make_task, save_task
from pipelines.training.sources import make_data
from schemas.config.training import TrainConfig


def train_whole(config: TrainConfig, known: Survey, watch: Watch = lambda progress: False) -> History:
    """Train a model, and save it in `<out>/encoder` once it is done.

    Args:
        config: The job.
        known: What `survey` made of its data; the same for every worker.
        watch: Told how it goes.

    Raises:
        ConfigError: The model cannot be made so, or `out` holds a checkpoint of another run.
        InputError: The data cannot be read.
    """
    torch.manual_seed(config.run.seed)
    file = describe_model(config, known)
    task = make_task(file)
    data = make_data(config, known)
    valid = make_data(config, known, is_valid=True) if config.data.valid else None
    folder = Path(config.out)
    history = fit(task, data, config, valid=valid, folder=folder, watch=watch)
    if rank() == 0 and not history.is_stopped:
        save_task(folder / "encoder", file, task, known.tokenizer)
    return history
