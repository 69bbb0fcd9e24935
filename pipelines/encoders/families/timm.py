"""Image models of the timm library. Optional: `pip install 'matryoshka-lake[timm]'` (it needs torchvision)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from huggingface_hub import hf_hub_download
from PIL import Image

from pipelines.encoders.image_preprocessing import ImagePreparer, ImageRule, normalise
from pipelines.encoders.inference import apply_steps, torch_dtype
from pipelines.encoders.model_files import local_path
from pipelines.encoders.protocol import Family, Prepared
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class TimmEncoder:
    """A timm model without its classifier: the output of its pooling."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the model onto the device, in the config's dtype."""
        name = f"local-dir:{local_path(config.path)}" if config.path else f"hf-hub:{spec.repo}"
        self._steps, self._device = spec.steps, pick_device(config.device, "encoder.device")
        self._dtype, self._rule = torch_dtype(spec, config, self._device), _read_image_rule(spec, config)
        model = timm.create_model(name, pretrained=True, num_classes=0)
        self._model: Any = model.to(self._device, self._dtype, memory_format=torch.channels_last).eval()
        if config.compile:
            self._model.compile()

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B images (H, W, 3) uint8 to (B, D) float32 unit rows."""
        return apply_steps(self._model(normalise(prepared, self._rule, self._device).to(self._dtype)), self._steps)


def _read_image_rule(spec: EncoderSpec, config: EncoderConfig) -> ImageRule:
    file = local_path(config.path) / "config.json" if config.path else Path(hf_hub_download(spec.repo, "config.json"))
    said = json.loads(file.read_text())["pretrained_cfg"]
    _, high, wide = said["input_size"]
    # As in timm's own evaluation transform: the short side to the input size over crop_pct, then the centre.
    short = int(min(high, wide) / said["crop_pct"])
    mean, std = tuple(said["mean"]), tuple(said["std"])
    return ImageRule((high, wide), short, _FILTERS[said["interpolation"]], mean, std, rounds_crop=True)


class TimmFamily(Family):
    """Image models of the timm library."""

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> ImagePreparer:
        """Load the image decoder."""
        return ImagePreparer(_read_image_rule(spec, config), limits)

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> TimmEncoder:
        """Load the model."""
        return TimmEncoder(spec, config)
