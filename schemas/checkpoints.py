"""Models trained here, as they are stored: `head.json` and `model.json`.

Owns what the two files hold. Their weights and the folders around them are in `pipelines.encoders.checkpoints`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.config.training import LossConfig, ModelConfig
from schemas.records import Modality


class FrozenTower(BaseModel):
    """The frozen encoder under a head.

    Attributes:
        name: Its name in the registry.
        path: Its `encoder.path`, where it has one.
        space: Fingerprint of the space that the head was trained in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    path: str | None = None
    space: str


class HeadFile(BaseModel):
    """The content of `head.json`.

    Attributes:
        format: Version of this file.
        dims: The ladder, ascending.
        towers: The frozen encoder of each modality.
        licence: SPDX id or name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    dims: tuple[int, ...] = Field(min_length=1)
    towers: dict[Modality, FrozenTower] = Field(min_length=1)
    licence: str = "its towers'"

    @model_validator(mode="after")
    def _ascending(self) -> HeadFile:
        if list(self.dims) != sorted(set(self.dims)):
            raise ValueError("dims must ascend")
        return self


class ModelFile(BaseModel):
    """The content of `model.json`: how to build a whole model that was trained here.

    Attributes:
        format: Version of this file.
        kind: The task it was trained for.
        model: Its architecture.
        loss: Its ladder, and the classifier heads that are saved with it.
        classes: Names of its classes, in the order of its logits.
        vocabulary: Size of its tokeniser's vocabulary; 0 without a text tower.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
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
