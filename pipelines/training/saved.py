"""Saving a whole model at the end of its training, and building the task that its file describes.

The folder's format is in `pipelines.encoders.checkpoints`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from pipelines.encoders.checkpoints import save_model
from pipelines.training.checkpoint import load_checkpoint
from pipelines.training.samples import Survey
from pipelines.training.tasks import ImageClassifier, MaskedLanguage, TwoTower
from pipelines.training.words import END, MASK, PAD, START, UNKNOWN
from schemas.checkpoints import ModelFile
from schemas.config.training import TrainConfig
from schemas.errors import RunError

Whole = ImageClassifier | TwoTower | MaskedLanguage


def describe_model(config: TrainConfig, known: Survey) -> ModelFile:
    """Make the content of `model.json` for the model that a config trains."""
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


def make_task(file: ModelFile) -> Whole:
    """Build the model that a file describes, with random weights.

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


def save_task(folder: Path, file: ModelFile, task: Whole, tokenizer: str = "") -> None:
    """Write a trained model as the folder that `encoder.path` names.

    Args:
        folder: Made if it is not there.
        file: The content of `model.json`.
        task: Its weights.
        tokenizer: The JSON of its tokeniser, where it embeds texts.
    """
    save_model(folder, file, task.state_dict())
    if tokenizer:
        _save_tokenizer(folder, tokenizer, file.model.max_length)


def save_checkpointed(config: TrainConfig, known: Survey) -> bool:
    """Save the model of the checkpoint in `config.out`, if that is its end; return whether it is.

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


def _save_tokenizer(folder: Path, tokenizer: str, max_length: int) -> None:
    from transformers import PreTrainedTokenizerFast

    fast = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=Tokenizer.from_str(tokenizer),
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=START,
        sep_token=END,
        mask_token=MASK,
        model_max_length=max_length,
    )
    fast.save_pretrained(str(folder))
