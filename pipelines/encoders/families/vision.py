"""Image models of the transformers library (DINOv2, DINOv3, ViT), pooled here as their entry says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from pipelines.encoders.files import source
from pipelines.encoders.hub import load_model
from pipelines.encoders.images import ImagePreparer, ImageRule, normalise
from pipelines.encoders.pooling import finish
from pipelines.encoders.precision import torch_dtype
from pipelines.encoders.protocol import Prepared
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import EncoderError


def image_rule(spec: EncoderSpec, config: EncoderConfig) -> ImageRule:
    """Read a model's own preprocessor file.

    Raises:
        EncoderError: It asks for something that is not scaling, centre-cropping and normalising.
    """
    where, revision = source(spec, config)
    processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        where, revision=revision, trust_remote_code=spec.runs_code, backend="pil"
    )
    if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
        raise EncoderError(f"{where}: its preprocessor file neither scales nor normalises; that is not supported")
    size, crops = processor.size, bool(getattr(processor, "do_center_crop", False))
    target = processor.crop_size if crops else size
    if target.height is None or target.width is None or (size.shortest_edge is None and crops):
        raise EncoderError(f"{where}: its preprocessor file gives size {size}; height and width are needed, or a crop")
    return ImageRule(
        crop=(target.height, target.width),
        short=size.shortest_edge if crops else None,
        resample=Image.Resampling(processor.resample),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )


class VisionEncoder:
    """A vision transformer and its class token."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the model onto the device, in the config's dtype.

        Raises:
            EncoderError: The entry asks for another pooling than the class token.
        """
        if spec.pooling != "cls":
            raise EncoderError(f"{spec.name}: pooling {spec.pooling!r} is not known for image models; allowed: cls")
        self._spec, self._device = spec, pick_device(config.device, "encoder.device")
        self._rule = image_rule(spec, config)
        self._dtype = torch_dtype(spec, config, self._device)
        self._model = load_model(spec, config, self._device)
        if config.compile:
            self._model.compile()

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B images (H, W, 3) uint8 to (B, D) float32 unit rows."""
        pixels = normalise(prepared, self._rule, self._device).to(self._dtype)
        hidden_BLD = self._model(pixel_values=pixels).last_hidden_state.float()
        return finish(hidden_BLD[:, 0], self._spec.steps)


def load_preparer(spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> ImagePreparer:
    """Load the image decoder."""
    return ImagePreparer(image_rule(spec, config), limits)


def load_encoder(spec: EncoderSpec, config: EncoderConfig) -> VisionEncoder:
    """Load the model."""
    return VisionEncoder(spec, config)
