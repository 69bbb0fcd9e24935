"""Models trained here, as they are stored: `head.json`, `model.json`, and the checkpoint of a run.

Owns what the files hold besides weights. The weights and the folders around them are in
`pipelines.encoders.checkpoints` and `pipelines.training.checkpoints`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.config.blocks import ModelSettings
from schemas.config.bounds import MAX_DIM
from schemas.config.training import LossConfig, ModelConfig
from schemas.errors import ConfigError
from schemas.records import Modality
from schemas.stored import Format, Stored

_CHECKPOINT = Format(
    "the training checkpoint", error=ConfigError, remedy="delete it to train from the start, or give another folder"
)
_CHECKPOINT_KEYS = ("identity", "task", "optimiser", "scaler", "sums", "step", "epochs")


class FrozenTower(BaseModel):
    """The frozen encoder under a head.

    Attributes:
        name: Its name in the registry.
        path: Its `encoder.path`, where it has one.
        space: Fingerprint of the space that the head was trained in.
        settings: The settings of `ModelSettings` that its config gave; not written where it gave none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    path: str | None = None
    space: str
    settings: ModelSettings = Field(default=ModelSettings(), exclude_if=lambda settings: settings == ModelSettings())


class HeadFile(Stored):
    """The content of `head.json`.

    Attributes:
        dims: The ladder, ascending.
        towers: The frozen encoder of each modality.
        licence: SPDX id or name.
    """

    stored_as: ClassVar[Format] = Format(
        "head.json of a Matryoshka head",
        error=ConfigError,
        remedy="give the folder of a head that `mlake train` made",
        is_numbered_from_first=True,
    )

    dims: tuple[Annotated[int, Field(ge=1, le=MAX_DIM)], ...] = Field(min_length=1)
    towers: dict[Modality, FrozenTower] = Field(min_length=1)
    licence: str = "its towers'"

    @model_validator(mode="after")
    def _ascending(self) -> HeadFile:
        if list(self.dims) != sorted(set(self.dims)):
            raise ValueError("dims must ascend")
        return self


class HeadMeasurements(Stored):
    """The content of `measured.json` beside a trained head: its quality on the rows held out.

    Attributes:
        path: Folder of the head, as it was given.
        measure: Name of the measure of `by_dim`.
        by_dim: The measure at each dim of the ladder; empty if too few rows are held out.
        beside: What `before` was measured on.
        before: The same measure without training; empty for a head from pairs.
        pca: The same measure on the vectors rotated by a PCA of the training rows; empty for a head from pairs, and
            where the vectors are rotated already.
        held_out: Number of rows held out.
        is_stopped: Whether training was stopped before its end.
    """

    stored_as: ClassVar[Format] = Format(
        "measured.json of a trained head", error=ConfigError, remedy="delete it and run `mlake train` again"
    )

    path: str
    measure: str = ""
    by_dim: dict[int, float] = Field({})
    beside: str = ""
    before: dict[int, float] = Field({})
    pca: dict[int, float] = Field({})
    held_out: int = 0
    is_stopped: bool = False


class ModelFile(Stored):
    """The content of `model.json`: how to build a whole model that was trained here.

    Attributes:
        kind: The task it was trained for.
        model: Its architecture.
        loss: Its ladder, and the classifier heads that are saved with it.
        classes: Names of its classes, in the order of its logits.
        vocabulary: Size of its tokeniser's vocabulary; 0 without a text tower.
    """

    stored_as: ClassVar[Format] = Format(
        "model.json of a trained model",
        error=ConfigError,
        remedy="give the folder of a model that `mlake train` made",
        is_numbered_from_first=True,
    )

    kind: Literal["classify", "pairs", "mlm"]
    model: ModelConfig
    loss: LossConfig
    classes: tuple[str, ...] = ()
    vocabulary: int = 0

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities it embeds."""
        by_kind: dict[str, tuple[Modality, ...]] = {
            "classify": ("image",),
            "pairs": ("image", "text"),
            "mlm": ("text",),
        }
        return by_kind[self.kind]


def check_checkpoint(state: object, where: str) -> None:
    """Refuse a training checkpoint that this release cannot read. Its number is in the key `format`; none means 1.

    Args:
        state: What the file holds.
        where: Path of the file.

    Raises:
        ConfigError: It is of a newer format, or lacks something.
    """
    if not isinstance(state, Mapping):
        raise _CHECKPOINT.malformed(where, f"must hold a dict, not {type(state).__name__}")
    _CHECKPOINT.check_number(state.get("format", 1), state.get("release"), where)
    if missing := [key for key in _CHECKPOINT_KEYS if key not in state]:
        raise _CHECKPOINT.malformed(where, f"lacks {', '.join(missing)}")


def unreadable_checkpoint(where: str, error: Exception) -> ConfigError:
    """Return the error for a checkpoint file that is damaged."""
    return ConfigError(str(_CHECKPOINT.malformed(where, f"cannot be read: {error}")))
