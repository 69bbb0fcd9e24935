"""A whole model trained here, as a folder: `model.json` says how to build it, `model.safetensors` holds its weights.

A model of texts has its tokeniser beside them. The folder is what `encoder.path` names for `jobs embed`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from pipelines.training.checkpoint import load_checkpoint
from pipelines.training.samples import Survey
from pipelines.training.tasks import ImageClassifier, MaskedLanguage, TwoTower
from pipelines.training.words import END, MASK, PAD, START, UNKNOWN
from schemas.config.training import LossConfig, ModelConfig, TrainConfig
from schemas.errors import ConfigError, RunError
from schemas.records import Modality

_JSON, _TENSORS = "model.json", "model.safetensors"
Whole = ImageClassifier | TwoTower | MaskedLanguage


class ModelFile(BaseModel):
    """What `model.json` says.

    Attributes:
        kind: What it was trained for.
        model: Its shape.
        loss: Its ladder, and the heads that are saved with it.
        classes: Names of its classes, in the order of its logits.
        vocabulary: Tokens it knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: Literal["classify", "pairs", "mlm"]
    model: ModelConfig
    loss: LossConfig
    classes: tuple[str, ...] = ()
    vocabulary: int = 0

    @classmethod
    def of(cls, config: TrainConfig, known: Survey) -> ModelFile:
        """Describe what a config trains."""
        vocabulary = Tokenizer.from_str(known.tokenizer).get_vocab_size() if known.tokenizer else 0
        return cls.model_validate(
            {
                "kind": config.kind,
                "model": config.model,
                "loss": config.loss,
                "classes": known.classes,
                "vocabulary": vocabulary,
            }
        )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it embeds."""
        by_kind: dict[str, tuple[Modality, ...]] = {
            "classify": ("image",),
            "pairs": ("image", "text"),
            "mlm": ("text",),
        }
        return by_kind[self.kind]


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


def tower_of(task: Whole, modality: Modality) -> nn.Module:
    """Return the part of a model that embeds a modality."""
    if isinstance(task, ImageClassifier):
        return task.tower
    return task.image if isinstance(task, TwoTower) and modality == "image" else task.text


def save_model(folder: Path, file: ModelFile, task: Whole, tokenizer: str = "") -> None:
    """Write a model.

    Args:
        folder: Made if it is not there.
        file: What it is.
        task: Its weights.
        tokenizer: The JSON of its tokeniser, where it embeds texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in task.state_dict().items()}
    save_file(tensors, folder / _TENSORS)
    (folder / _JSON).write_text(file.model_dump_json(indent=2) + "\n")
    if tokenizer:
        _save_tokenizer(folder, tokenizer, file.model.max_length)


def read_model_file(folder: Path) -> ModelFile:
    """Read `model.json`.

    Raises:
        ConfigError: It is not there, or it is no such file.
    """
    try:
        return ModelFile.model_validate_json((folder / _JSON).read_text())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"encoder.path={folder} is no model that `jobs train` made (model.json, model.safetensors): {error}"
        ) from None


def load_model(folder: Path) -> Whole:
    """Load a model onto the CPU, in evaluation mode.

    Raises:
        ConfigError: The folder holds none.
    """
    task = make_task(read_model_file(folder))
    task.load_state_dict(load_file(folder / _TENSORS))
    return task.eval()


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
    file = ModelFile.of(config, known)
    task = make_task(file)
    task.load_state_dict(state["task"])
    save_model(Path(config.out) / "encoder", file, task, known.tokenizer)
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
