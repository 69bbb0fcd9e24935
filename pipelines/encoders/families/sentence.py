"""Models published for sentence-transformers: the model's own modules do the pooling."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from pipelines.encoders.hugging_face import TextPreparer, pad, silence_progress_bars
from pipelines.encoders.inference import apply_steps, torch_dtype
from pipelines.encoders.model_files import ModelSource, model_source
from pipelines.encoders.protocol import Family, Prepared
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import EncoderError


class SentenceEncoder:
    """The modules of a SentenceTransformer, without its own tokenising, sorting and batching."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the modules onto the device, in the config's dtype.

        Raises:
            EncoderError: The local folder is no sentence-transformers model, so its pooling is unknown.
        """
        where, revision = _model_source(spec, config)
        if Path(where).is_dir() and not (Path(where) / "modules.json").exists():
            raise EncoderError(f"{where} has no modules.json, so it does not say how {spec.name} pools its tokens")
        self._device, self._steps = pick_device(config.device, "encoder.device"), spec.steps
        silence_progress_bars()
        self._model = SentenceTransformer(
            where,
            revision=revision,
            device=str(self._device),
            trust_remote_code=spec.runs_code,
            model_kwargs={"dtype": torch_dtype(spec, config, self._device)},
        ).eval()
        self._task = {"task": spec.tasks[config.side]} if spec.tasks else {}
        if config.compile:
            self._model.compile(dynamic=True)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B token lists to (B, D) float32 unit rows."""
        features = self._model(pad(prepared, self._device), **self._task)
        return apply_steps(features["sentence_embedding"], self._steps)


def _model_source(spec: EncoderSpec, config: EncoderConfig) -> ModelSource:
    if spec.package and config.path is None:
        return ModelSource(str(files(spec.package.replace("-", "_")) / "model"), None)
    return model_source(spec, config)


class SentenceFamily(Family):
    """Models published for sentence-transformers."""

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> TextPreparer:
        """Load the tokeniser."""
        return TextPreparer(spec, config, *_model_source(spec, config))

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> SentenceEncoder:
        """Load the modules."""
        return SentenceEncoder(spec, config)
