"""EfficientNet: onnxruntime gives what torch gives."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.encoders import BadSample, encoder_spec, load_preparer
from pipelines.encoders.families.efficientnet import EfficientNetEncoder
from schemas.config import EncoderConfig, LimitsConfig
from tests.support.tiny_encoders import PHOTOS


def test_onnxruntime_gives_what_torch_gives_whatever_the_batch() -> None:
    torch.set_num_threads(1)
    spec, config = encoder_spec("efficientnet-lite0"), EncoderConfig(name="efficientnet-lite0", device="cpu")
    prepared = [p for p in load_preparer(config, LimitsConfig()).prepare(PHOTOS) if not isinstance(p, BadSample)]
    fast, exact = (EfficientNetEncoder(spec, config, use_onnx=use).encode for use in (True, False))
    np.testing.assert_allclose(fast(prepared), exact(prepared), atol=1e-5)
    np.testing.assert_allclose(fast(prepared[:1]), exact(prepared)[:1], atol=1e-5)
