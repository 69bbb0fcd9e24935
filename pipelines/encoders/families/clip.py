"""Joint models of the transformers library with a text and an image tower in one file: CLIP, SigLIP, jina-clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.encoders.hugging_face import TextPreparer, load_pretrained, pad, read_image_rule
from pipelines.encoders.image_preprocessing import ImagePreparer, normalise
from pipelines.encoders.inference import apply_steps, torch_dtype
from pipelines.encoders.joint_encoder import JointPreparer
from pipelines.encoders.model_files import model_source
from pipelines.encoders.protocol import Family, Prepared, modality_of_prepared
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig


class ClipEncoder:
    """Both towers; each batch goes through the one of its modality."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the model onto the device, in the config's dtype."""
        self._spec, self._device = spec, pick_device(config.device, "encoder.device")
        self._rule = read_image_rule(spec, config)
        self._dtype = torch_dtype(spec, config, self._device)
        self._model = load_pretrained(spec, config, self._device)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B token lists, or B images (H, W, 3) uint8, to (B, D) float32 unit rows."""
        if modality_of_prepared(prepared[0]) == "image":
            pixels = normalise(prepared, self._rule, self._device).to(self._dtype)
            features = self._model.get_image_features(pixel_values=pixels)
        else:
            batch = pad(prepared, self._device)
            if self._spec.pads_to_max:  # trained without a mask: padding is part of the text
                del batch["attention_mask"]
            features = self._model.get_text_features(**batch)
        # transformers 5 wraps the projected vector; models with their own code return it bare.
        return apply_steps(getattr(features, "pooler_output", features), self._spec.steps)


class ClipFamily(Family):
    """Joint models of the transformers library."""

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> JointPreparer:
        """Load the tokeniser and the image decoder."""
        text = TextPreparer(spec, config, *model_source(spec, config))
        return JointPreparer({"text": text, "image": ImagePreparer(read_image_rule(spec, config), limits)})

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> ClipEncoder:
        """Load both towers."""
        return ClipEncoder(spec, config)
