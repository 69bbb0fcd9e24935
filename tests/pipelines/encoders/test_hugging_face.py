"""What families of the transformers library share: padding, and image rules from a preprocessor file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
)

from pipelines.encoders import load_preparer
from pipelines.encoders.hugging_face import pad
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import EncoderError
from tests.support.tiny_encoders import (
    register_like,
    save_model,
    save_preprocessor,
)


def test_a_preprocessor_file_with_unknown_steps_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=14)
    save_model(tmp_path, Dinov2Model, config)
    save_preprocessor(tmp_path, image_processor_type="CLIPImageProcessor", do_resize=False, size={"shortest_edge": 32})
    with pytest.raises(EncoderError, match="preprocessor"):
        load_preparer(
            EncoderConfig(name=register_like(monkeypatch, "dinov2-small").name, path=str(tmp_path)), LimitsConfig()
        )


def test_ids_are_padded_on_the_right_and_masked() -> None:
    batch = pad([np.array([7, 8, 9], np.int32), np.array([5], np.int32)], torch.device("cpu"))
    assert batch["input_ids"].tolist() == [[7, 8, 9], [5, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
