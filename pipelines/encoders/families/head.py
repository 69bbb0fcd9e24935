"""Matryoshka heads trained here on frozen encoders.

A head of one modality gives an encoder a trained ladder; a head of two makes a joint space. The folder's format is in
`pipelines.encoders.checkpoints`.

Shapes: B rows, D width of the head's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipelines.encoders import registry
from pipelines.encoders.checkpoints import Layer, apply_layers, read_head, read_layers
from pipelines.encoders.files import local_path
from pipelines.encoders.joint import JointEncoder, JointPreparer
from pipelines.encoders.protocol import Encoder, Prepared, Preparer
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from schemas.checkpoints import FrozenTower
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import EncoderError
from schemas.records import Modality


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
    device = pick_device(config.device, "encoder.device")

    def load(modality: Modality, tower: FrozenTower) -> Encoder:
        under = _config(tower, config)
        if registry.describe_tower(under).space != tower.space:
            raise EncoderError(
                f"{folder} was trained on another {tower.name} than the one here: its space is not the same"
            )
        return HeadEncoder(registry.load_encoder(under), read_layers(folder, modality), device)

    towers = read_head(folder).towers
    return JointEncoder({modality: partial(load, modality, tower) for modality, tower in towers.items()})


def _config(tower: FrozenTower, config: EncoderConfig) -> EncoderConfig:
    return config.model_copy(update={"name": tower.name, "path": tower.path, "dtype": "float32"})
