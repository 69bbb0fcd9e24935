"""Image models of the transformers library (DINOv2, DINOv3, ViT), pooled here as their registry entry says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.encoders.hugging_face import load_pretrained, read_image_rule
from pipelines.encoders.image_preprocessing import ImagePreparer, normalise
from pipelines.encoders.inference import apply_steps, torch_dtype
from pipelines.encoders.protocol import Family, Prepared
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import EncoderError


class VisionEncoder:
    """A vision transformer and its class token."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the model onto the device, in the config's dtype.

        Raises:
            EncoderError: The registry entry asks for another pooling than the class token.
        """
        if spec.pooling != "cls":
            raise EncoderError(f"{spec.name}: pooling {spec.pooling!r} is not known for image models; allowed: cls")
        self._spec, self._device = spec, pick_device(config.device, "encoder.device")
        self._rule = read_image_rule(spec, config)
        self._dtype = torch_dtype(spec, config, self._device)
        self._model = load_pretrained(spec, config, self._device)
        if config.compile:
            self._model.compile()

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B images (H, W, 3) uint8 to (B, D) float32 unit rows."""
        pixels = normalise(prepared, self._rule, self._device).to(self._dtype)
        hidden_BLD = self._model(pixel_values=pixels).last_hidden_state.float()
        return apply_steps(hidden_BLD[:, 0], self._spec.steps)


class VisionFamily(Family):
    """Image models of the transformers library."""

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> ImagePreparer:
        """Load the image decoder."""
        return ImagePreparer(read_image_rule(spec, config), limits)

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> VisionEncoder:
        """Load the model."""
        return VisionEncoder(spec, config)
