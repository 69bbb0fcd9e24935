"""Matryoshka heads trained here on frozen encoders.

A head of one modality gives an encoder a trained ladder; a head of two makes a joint space. The folder's format is in
`pipelines.encoders.checkpoints`.

Shapes: B rows, D width of the head's output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipelines.encoders.checkpoints import Layer, apply_layers, read_head, read_layers
from pipelines.encoders.joint_encoder import JointEncoder, JointPreparer
from pipelines.encoders.model_files import local_path
from pipelines.encoders.protocol import Encoder, Family, Prepared, Preparer
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from schemas.checkpoints import FrozenTower
from schemas.config import EncoderConfig, LimitsConfig, ModelSettings
from schemas.errors import EncoderError
from schemas.records import Modality


class HeadEncoder:
    """A frozen encoder and the trained layers on top of it."""

    def __init__(self, frozen: Encoder, layers: Sequence[Layer], device: torch.device) -> None:
        """Copy the layers onto the device."""
        self._frozen, self._device = frozen, device
        self._layers = [
            Layer(layer.weight.to(device), None if layer.bias is None else layer.bias.to(device)) for layer in layers
        ]

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode a batch to (B, D) float32 unit rows."""
        return apply_layers(torch.from_numpy(self._frozen.encode(prepared)).to(self._device), self._layers)


@dataclass(frozen=True)
class FrozenEncoders:
    """What a head needs of the registry to load the encoders under it.

    Attributes:
        resolve: From a config to a spec.
        describe_tower: From a config to the tower that `head.json` would hold for it.
        check_code: Refuses the config of a tower with Python of its own, unless it allows that.
        load_preparer: From a config to the CPU half.
        load_encoder: From a config to the accelerator half.
    """

    resolve: Callable[[EncoderConfig], EncoderSpec]
    describe_tower: Callable[[EncoderConfig], FrozenTower]
    check_code: Callable[[EncoderConfig], None]
    load_preparer: Callable[[EncoderConfig, LimitsConfig], Preparer]
    load_encoder: Callable[[EncoderConfig], Encoder]


class HeadFamily(Family):
    """Heads on frozen encoders, which the registry loads."""

    def __init__(self, registry: FrozenEncoders) -> None:
        """Keep the access to the registry: this module cannot import it, because the registry imports this module."""
        self._registry = registry

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec from `head.json`: ladder, modalities, and the prompts of its text tower.

        Raises:
            ConfigError: The folder holds no head, or one on a class.
        """
        head = read_head(path)
        spec = replace(spec, dims=head.dims, modalities=tuple(head.towers), licence=head.licence)
        if "text" not in head.towers:
            return spec
        described = EncoderConfig(name=spec.name, trust_remote_code=True)  # a folder's description is read, not run
        text_config = frozen_config(head.towers["text"], described)
        self._registry.check_code(text_config)
        text = self._registry.resolve(text_config)
        return replace(spec, prompts=text.prompts, max_length=text.max_length)

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> Preparer:
        """Load the preparers of the frozen encoders.

        Raises:
            EncoderNotTrusted: One of them runs Python of its own, and the config does not allow it.
        """
        towers = self._frozen_configs(config).items()
        return JointPreparer({modality: self._registry.load_preparer(frozen, limits) for modality, frozen in towers})

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> Encoder:
        """Load the heads; each frozen encoder is loaded at its first batch.

        Raises:
            EncoderNotTrusted: One of them runs Python of its own, and the config does not allow it.
            EncoderError: At the first batch: a frozen encoder is not the one that the head was trained on.
        """
        towers = self._frozen_configs(config).items()
        return JointEncoder(
            {modality: partial(self._load_tower, config, modality, frozen) for modality, frozen in towers}
        )

    def _frozen_configs(self, config: EncoderConfig) -> dict[Modality, EncoderConfig]:
        towers = read_head(local_path(config.path or "")).towers
        configs = {modality: frozen_config(tower, config) for modality, tower in towers.items()}
        for frozen in configs.values():
            self._registry.check_code(frozen)
        return configs

    def _load_tower(self, config: EncoderConfig, modality: Modality, frozen: EncoderConfig) -> Encoder:
        folder = local_path(config.path or "")
        tower = read_head(folder).towers[modality]
        if self._registry.describe_tower(frozen).space != tower.space:
            raise EncoderError(
                f"{folder} was trained on another {tower.name} than the one here: its space is not the same"
            )
        return HeadEncoder(
            self._registry.load_encoder(frozen),
            read_layers(folder, modality),
            pick_device(config.device, "encoder.device"),
        )


def frozen_config(tower: FrozenTower, config: EncoderConfig) -> EncoderConfig:
    """Return the config of the frozen encoder under a head, from the head's file and its config."""
    settings = {name: getattr(tower.settings, name) for name in ModelSettings.model_fields}
    return config.model_copy(update={"name": tower.name, "path": tower.path, "dtype": "float32", **settings})
