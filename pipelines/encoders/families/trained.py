"""Whole models that `mlake train` made: image classifiers, two towers, masked language models.

Shapes: B rows, D end of the ladder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipelines.encoders.checkpoints import load_towers, read_model_file
from pipelines.encoders.hugging_face import TextPreparer, pad
from pipelines.encoders.image_preprocessing import ImagePreparer
from pipelines.encoders.inference import apply_steps, autocast, torch_dtype
from pipelines.encoders.joint_encoder import JointPreparer
from pipelines.encoders.model_files import local_path
from pipelines.encoders.protocol import Family, Prepared, Preparer, modality_of_prepared
from pipelines.encoders.spec import EncoderSpec
from pipelines.encoders.towers import tower_image_rule
from pipelines.storage.device import pick_device, to_device
from pipelines.vectors.matryoshka import cut
from schemas.config import EncoderConfig, LimitsConfig
from schemas.records import Modality


class TrainedEncoder:
    """The towers of a trained model, without its classifier heads."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the model onto the device."""
        self._spec, self._device = spec, pick_device(config.device, "encoder.device")
        self._dtype = torch_dtype(spec, config, self._device)
        towers = load_towers(local_path(config.path or ""))
        self._towers = {modality: tower.to(self._device) for modality, tower in towers.items()}

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B images (H, W, 3) uint8, or B lists of token ids, to (B, D) float32 unit rows."""
        modality = modality_of_prepared(prepared[0])
        tower = self._towers[modality]
        with autocast(self._device, self._dtype):
            if modality == "image":
                x_BD = tower(to_device(torch.from_numpy(np.stack(prepared)), self._device))
            else:
                batch = pad(prepared, self._device)
                x_BD = tower(batch["input_ids"], batch["attention_mask"])
        return apply_steps(cut(x_BD.float(), self._spec.dims[-1]), self._spec.steps)


class TrainedFamily(Family):
    """Whole models trained here."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec from `model.json`: ladder, modalities, maximum length of a text.

        Raises:
            ConfigError: The folder holds no whole model.
        """
        file = read_model_file(path)
        max_length = file.model.max_length if "text" in file.modalities else None
        return replace(spec, dims=file.loss.dims, modalities=file.modalities, max_length=max_length)

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> Preparer:
        """Load the image decoder, the tokeniser, or both."""
        folder = local_path(config.path or "")
        file = read_model_file(folder)
        preparers: dict[Modality, Preparer] = {}
        if "image" in file.modalities:
            preparers["image"] = ImagePreparer(tower_image_rule(file.model.pixels), limits)
        if "text" in file.modalities:
            preparers["text"] = TextPreparer(spec, config, str(folder), None)
        return JointPreparer(preparers)

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> TrainedEncoder:
        """Load the model."""
        return TrainedEncoder(spec, config)
