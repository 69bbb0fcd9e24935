"""Models of sentence-transformers whose own code prepares their input: texts and pictures in one space, chat templates.

The library tokenises, scales pictures and pools, as the model's makers wrote it down. So it is slower than the other
families, where tokens and pixels are made ahead of the encoder, and cannot say how many texts were cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipelines.encoders.families.sentence import SentenceFamily, check_modules, load_model
from pipelines.encoders.image_preprocessing import WholeImagePreparer
from pipelines.encoders.inference import apply_steps
from pipelines.encoders.joint_encoder import JointPreparer
from pipelines.encoders.model_files import model_source
from pipelines.encoders.protocol import Prepared, Preparer
from pipelines.encoders.raw_inputs import RawPreparer, unpack
from pipelines.encoders.spec import EncoderSpec, may_run_code
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig
from schemas.records import Modality


class OmniEncoder:
    """A SentenceTransformer that gets its inputs as they are."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the model onto the device, in the config's dtype."""
        where, revision = model_source(spec, config)
        if Path(where).is_dir() and not may_run_code(spec, config):
            check_modules(Path(where) / "modules.json")
        self._model = load_model(spec, config, where, revision, pick_device(config.device, "encoder.device"))
        self._steps = spec.steps
        self._settings: dict[str, Any] = {"prompt": spec.prompts.get(config.side)}
        if spec.tasks:
            self._settings["task"] = spec.tasks[config.side]

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B inputs of one modality to (B, D) float32 unit rows."""
        inputs = [Image.fromarray(one) if one.dtype == np.uint8 else unpack(one) for one in prepared]
        vectors_BD = self._model.encode(
            inputs, batch_size=len(inputs), convert_to_tensor=True, show_progress_bar=False, **self._settings
        )
        return apply_steps(torch.as_tensor(vectors_BD), self._steps)


class OmniFamily(SentenceFamily):
    """Models that prepare their own input."""

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> Preparer:
        """Load nothing: texts go to the model as they are, pictures as their pixels."""
        towers: dict[Modality, Preparer] = {"text": RawPreparer("text"), "image": WholeImagePreparer(limits)}
        return JointPreparer({modality: towers[modality] for modality in spec.modalities})

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> OmniEncoder:
        """Load the model."""
        return OmniEncoder(spec, config)
