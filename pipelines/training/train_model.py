"""Train a whole model: build the task, read the data, fit, and save the folder that `mlake embed` loads.

Owns the order of these steps in one worker. Several workers run it side by side in an existing process group. The
format of the folder is in `pipelines.encoders.checkpoints`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from pipelines.encoders.checkpoints import save_model
from pipelines.training.batches import make_data
from pipelines.training.checkpoints import FILE, load_checkpoint
from pipelines.training.history import History, Watch
from pipelines.training.loop import fit
from pipelines.training.process_group import worker_rank
from pipelines.training.samples import Survey
from pipelines.training.tasks import ImageClassifier, MaskedLanguage, TwoTower
from pipelines.training.tokenizer import save_tokenizer
from schemas.checkpoints import ModelFile
from schemas.config.training import TrainConfig
from schemas.errors import RunError

ModelTask = ImageClassifier | TwoTower | MaskedLanguage


def train_model(config: TrainConfig, known: Survey, watch: Watch = lambda report: False) -> History:
    """Train a model, and save it in `<out>/encoder` at its end.

    Args:
        config: The job's config.
        known: Survey of its data; the same for every worker.
        watch: Receives reports, and may stop the run.

    Raises:
        ConfigError: The model's settings do not fit together, or `out` holds a checkpoint of another run.
        InputError: The data cannot be read.
    """
    torch.manual_seed(config.run.seed)
    file = describe_model(config, known)
    task = make_task(file)
    data = make_data(config, known)
    valid = make_data(config, known, is_valid=True) if config.data.valid else None
    folder = Path(config.out)
    history = fit(task, data, config, valid=valid, folder=folder, watch=watch)
    if worker_rank() == 0 and not history.is_stopped:
        save_task(folder / "encoder", file, task, known.tokenizer)
    return history


def describe_model(config: TrainConfig, known: Survey) -> ModelFile:
    """Return the content of `model.json` for the model that a config trains."""
    vocabulary = Tokenizer.from_str(known.tokenizer).get_vocab_size() if known.tokenizer else 0
    return ModelFile.model_validate(
        {
            "kind": config.kind,
            "model": config.model,
            "loss": config.loss,
            "classes": known.classes,
            "vocabulary": vocabulary,
        }
    )


def make_task(file: ModelFile) -> ModelTask:
    """Build the task that a model file describes, with random weights.

    Raises:
        ConfigError: Its settings do not fit together.
        DependencyMissing: transformers is not installed.
    """
    match file.kind:
        case "classify":
            return ImageClassifier(file.model, file.loss, len(file.classes))
        case "pairs":
            return TwoTower(file.model, file.loss, file.vocabulary)
        case "mlm":
            return MaskedLanguage(file.model, file.loss, file.vocabulary)


def save_task(folder: Path, file: ModelFile, task: ModelTask, tokenizer: str = "") -> None:
    """Write a trained model as the folder that `encoder.path` names.

    Args:
        folder: Created if it is missing.
        file: Content of `model.json`.
        task: The weights.
        tokenizer: JSON of the tokeniser, of a model that embeds texts.
    """
    save_model(folder, file, task.state_dict())
    if tokenizer:
        save_tokenizer(tokenizer, folder, file.model.max_length)


def save_checkpointed(config: TrainConfig, known: Survey) -> bool:
    """Save the model of the checkpoint in `config.out` if its run has ended; return whether it has.

    Raises:
        RunError: There is no checkpoint.
    """
    state = load_checkpoint(Path(config.out))
    if state is None:
        raise RunError(f"the run left no checkpoint in {config.out}")
    if len(state["epochs"]) < config.run.epochs:
        return False
    file = describe_model(config, known)
    task = make_task(file)
    task.load_state_dict(state["task"])
    save_task(Path(config.out) / "encoder", file, task, known.tokenizer)
    return True


def train_worker(
    config: TrainConfig, known: Survey, scratch: Path, tell: Callable[[dict[str, Any], Path | None], bool]
) -> None:
    """Train as one of several workers.

    Args:
        config: The job.
        known: Its survey.
        scratch: Folder for checkpoints; it may hold one, and then the run resumes.
        tell: Takes each report as a record, with the checkpoint if one has just been written; returns whether to stop.
    """
    own = config.model_copy(update={"out": str(scratch)})
    train_model(own, known, lambda report: tell(asdict(report), scratch / FILE if report.saved else None))
