"""Image models of the timm library. Optional: `pip install 'matryoshka-lake[timm]'` (it needs torchvision)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
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
from schemas.errors import ConfigError, EncoderError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class TimmEncoder:
    """A timm model without its classifier: the output of its pooling."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the model onto the device, in the config's dtype."""
        name = f"local-dir:{local_path(config.path)}" if config.path else f"hf-hub:{spec.repo}@{spec.revision}"
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
    folder = local_path(config.path) if config.path else None
    file = folder / "config.json" if folder else Path(hf_hub_download(spec.repo, "config.json", revision=spec.revision))
    said = json.loads(file.read_text())["pretrained_cfg"]
    if said.get("crop_mode", "center") != "center" or said["interpolation"] not in _FILTERS:
        raise EncoderError(
            f"{file}: crop_mode {said.get('crop_mode', 'center')!r} with interpolation {said['interpolation']!r} is "
            f"not supported; supported: center, with {' or '.join(_FILTERS)}"
        )
    _, high, wide = said["input_size"]
    # As in timm's own evaluation transform: the short side to the input size over crop_pct, then the centre.
    short = int(min(high, wide) / said["crop_pct"])
    mean, std = tuple(said["mean"]), tuple(said["std"])
    return ImageRule((high, wide), short, _FILTERS[said["interpolation"]], mean, std, rounds_crop=True)


class TimmFamily(Family):
    """Image models of the timm library."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec by a forward pass without weights: some models widen after `num_features`.

        Raises:
            ConfigError: The folder is no model of timm.
        """
        try:
            with torch.device("meta"):
                model = timm.create_model(f"local-dir:{path}", pretrained=False, num_classes=0).eval()
                said = json.loads((path / "config.json").read_text())["pretrained_cfg"]
                width = model(torch.zeros(1, *said["input_size"])).shape[-1]
        except (OSError, RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
            said = str(error).strip().partition("\n")[0]
            raise ConfigError(f"encoder.path={path} is no folder of a timm model: {said}") from None
        return replace(spec, dims=(int(width),))

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> ImagePreparer:
        """Load the image decoder."""
        return ImagePreparer(_read_image_rule(spec, config), limits)

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> TimmEncoder:
        """Load the model."""
        return TimmEncoder(spec, config)
