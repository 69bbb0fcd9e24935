"""Matryoshka heads trained by this project on frozen encoders: the file format, and the encoder that runs it.

A checkpoint is a folder of two files. `head.json` names the ladder and, per modality, the frozen encoder;
`head.safetensors` holds the layers as `<modality>.<i>.weight` (out, in) and `<modality>.<i>.bias` (out,), with GELU
between them. One modality makes an encoder with an honest ladder out of one that had none; two make a joint space.

Shapes: B rows, D width of the head's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.torch import load_file, save_file
from torch.nn import functional

from pipelines.encoders import registry
from pipelines.encoders.files import local_path
from pipelines.encoders.joint import JointEncoder, JointPreparer
from pipelines.encoders.pooling import finish
from pipelines.encoders.protocol import Encoder, Prepared, Preparer
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, EncoderError
from schemas.records import Modality

_JSON, _TENSORS = "head.json", "head.safetensors"


class Tower(BaseModel):
    """The frozen encoder under a head, and the fingerprint of the space that the head was trained in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    path: str | None = None
    space: str


class HeadFile(BaseModel):
    """What `head.json` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    dims: tuple[int, ...] = Field(min_length=1)
    towers: dict[Modality, Tower] = Field(min_length=1)
    licence: str = "its towers'"

    @model_validator(mode="after")
    def _ascending(self) -> HeadFile:
        if list(self.dims) != sorted(set(self.dims)):
            raise ValueError("dims must ascend")
        return self


@dataclass(frozen=True)
class Layer:
    """One linear layer: weight (out, in), bias (out,) or none."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None


def save_head(folder: str | Path, head: HeadFile, layers: Mapping[Modality, Sequence[Layer]]) -> None:
    """Write a checkpoint.

    Args:
        folder: Made if it is not there.
        head: What goes into `head.json`; `tower_of` makes its towers.
        layers: Per modality, from the frozen encoder's output to the head's.

    Raises:
        EncoderError: Modalities or widths do not fit together.
    """
    if layers.keys() != head.towers.keys():
        raise EncoderError(f"the head has towers {sorted(head.towers)}, but layers for {sorted(layers)}")
    for modality, stack in layers.items():
        if stack[-1].weight.shape[0] != head.dims[-1]:
            raise EncoderError(
                f"the {modality} head gives {stack[-1].weight.shape[0]} dims, but the ladder ends at {head.dims[-1]}"
            )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for modality, stack in layers.items():
        for i, layer in enumerate(stack):
            tensors[f"{modality}.{i}.weight"] = layer.weight.detach().cpu().contiguous()
            if layer.bias is not None:
                tensors[f"{modality}.{i}.bias"] = layer.bias.detach().cpu().contiguous()
    save_file(tensors, folder / _TENSORS)
    (folder / _JSON).write_text(head.model_dump_json(indent=2) + "\n")


def tower_of(config: EncoderConfig) -> Tower:
    """Describe a frozen encoder for `head.json`."""
    return Tower(name=config.name, path=config.path, space=_fingerprint(config))


def read_head(folder: Path) -> HeadFile:
    """Read `head.json`.

    Raises:
        ConfigError: It is not there, or it is no such file.
    """
    try:
        return HeadFile.model_validate_json((folder / _JSON).read_text())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"encoder.path={folder} is no Matryoshka head (head.json, head.safetensors): {error}"
        ) from None


def describe(spec: EncoderSpec, path: Path) -> EncoderSpec:
    """Complete a spec with what the checkpoint says: its ladder, its modalities, its text tower's prompts."""
    head = read_head(path)
    spec = replace(spec, dims=head.dims, modalities=tuple(head.towers), licence=head.licence)
    if "text" not in head.towers:
        return spec
    text = registry.resolve(_config(head.towers["text"], EncoderConfig(name=spec.name)))
    return replace(spec, prompts=text.prompts, max_length=text.max_length)


class HeadEncoder:
    """A frozen encoder and the trained layers on top of it."""

    def __init__(self, frozen: Encoder, layers: Sequence[Layer], device: torch.device) -> None:
        """Put the layers onto the device."""
        self._frozen, self._device = frozen, device
        self._layers = [
            Layer(layer.weight.to(device), None if layer.bias is None else layer.bias.to(device)) for layer in layers
        ]

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode a batch to (B, D) float32 unit rows."""
        return apply_layers(torch.from_numpy(self._frozen.encode(prepared)).to(self._device), self._layers)


@torch.inference_mode()
def apply_layers(x_BD: torch.Tensor, layers: Sequence[Layer]) -> npt.NDArray[np.float32]:
    """Bring the frozen encoder's output through a head's layers: (B, D) float32 unit rows."""
    for i, layer in enumerate(layers):
        x_BD = functional.linear(functional.gelu(x_BD) if i else x_BD, layer.weight, layer.bias)
    return finish(x_BD, ("l2",))


def read_layers(folder: Path, modality: Modality) -> list[Layer]:
    """Read the layers of a modality."""
    tensors = load_file(folder / _TENSORS)
    count = sum(name.startswith(f"{modality}.") and name.endswith(".weight") for name in tensors)
    return [Layer(tensors[f"{modality}.{i}.weight"], tensors.get(f"{modality}.{i}.bias")) for i in range(count)]


def load_preparer(spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> Preparer:
    """Load the preparers of the frozen encoders."""
    towers = read_head(local_path(config.path or "")).towers
    return JointPreparer(
        {modality: registry.load_preparer(_config(tower, config), limits) for modality, tower in towers.items()}
    )


def load_encoder(spec: EncoderSpec, config: EncoderConfig) -> Encoder:
    """Load the heads; a frozen encoder when it is first needed.

    Raises:
        EncoderError: A frozen encoder is not the one that the head was trained on.
    """
    folder = local_path(config.path or "")
    device = pick_device(config)

    def load(modality: Modality, tower: Tower) -> Encoder:
        under = _config(tower, config)
        if _fingerprint(under) != tower.space:
            raise EncoderError(
                f"{folder} was trained on another {tower.name} than the one here: its space is not the same"
            )
        return HeadEncoder(registry.load_encoder(under), read_layers(folder, modality), device)

    towers = read_head(folder).towers
    return JointEncoder({modality: partial(load, modality, tower) for modality, tower in towers.items()})


def _config(tower: Tower, config: EncoderConfig) -> EncoderConfig:
    return config.model_copy(update={"name": tower.name, "path": tower.path, "dtype": "float32"})


def _fingerprint(config: EncoderConfig) -> str:
    return registry.make_space(config.model_copy(update={"dtype": "float32"})).fingerprint
