"""Text models of the transformers library, pooled here as their registry entry says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipelines.encoders.hugging_face import TextPreparer, load_pretrained, pad, read_model
from pipelines.encoders.inference import apply_steps, pool
from pipelines.encoders.model_files import model_source
from pipelines.encoders.protocol import Family, Prepared
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig


class TransformerEncoder:
    """A transformer, its pooling, and the steps of its rule."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the model onto the device, in the config's dtype."""
        self._spec, self._device = spec, pick_device(config.device, "encoder.device")
        self._model = load_pretrained(spec, config, self._device)
        if config.compile:
            self._model.compile(dynamic=True)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B token lists to (B, D) float32 unit rows."""
        batch = pad(prepared, self._device)
        hidden_BLD = self._model(**batch).last_hidden_state.float()
        return apply_steps(pool(hidden_BLD, batch["attention_mask"], self._spec.pooling), self._spec.steps)


class TransformerFamily(Family):
    """Text models of the transformers library."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec from the files of a model: its width, its longest text, and the family that runs it.

        Raises:
            ConfigError: The folder holds no model that the library knows without code of its own.
        """
        return read_model(spec, path)

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> TextPreparer:
        """Load the tokeniser."""
        return TextPreparer(spec, config, *model_source(spec, config))

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> TransformerEncoder:
        """Load the model."""
        return TransformerEncoder(spec, config)
