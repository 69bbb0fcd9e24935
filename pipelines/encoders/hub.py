"""Loading models of the transformers library, each at its pinned revision or from a local folder."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel
from transformers.utils import logging

from pipelines.encoders.files import source
from pipelines.encoders.precision import torch_dtype
from pipelines.encoders.spec import EncoderSpec
from schemas.config import EncoderConfig


def load_model(spec: EncoderSpec, config: EncoderConfig, device: torch.device) -> Any:
    """Load a model's own class onto a device, in the config's dtype, ready for inference."""
    hush()
    where, revision = source(spec, config)
    model = AutoModel.from_pretrained(
        where, revision=revision, trust_remote_code=spec.runs_code, dtype=torch_dtype(spec, config, device)
    )
    return model.to(device).eval()


def hush() -> None:
    """Turn off the library's bars: one per actor and model would drown the run's own progress."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
