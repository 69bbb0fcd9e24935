"""Joint models: each input goes to the tower of its modality, which is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.encoders import Encoder, Prepared
from pipelines.encoders.joint_encoder import JointEncoder
from schemas.errors import InputError


class Constant:
    def __init__(self, value: float) -> None:
        self._value = value

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        return np.full((len(prepared), 1), self._value, np.float32)


def test_a_tower_is_loaded_once_and_only_when_it_is_needed() -> None:
    loaded: list[str] = []

    def load_text() -> Encoder:
        loaded.append("text")
        return Constant(1)

    joint = JointEncoder({"text": load_text, "image": lambda: pytest.fail("not needed")})
    ids = [np.array([1, 2], np.int32)]
    assert joint.encode(ids).tolist() == joint.encode(ids).tolist() == [[1.0]]
    assert loaded == ["text"]


def test_a_modality_without_a_tower_is_refused() -> None:
    joint = JointEncoder({"text": lambda: Constant(1)})
    with pytest.raises(InputError, match="takes text inputs; this input is image"):
        joint.encode([np.zeros((2, 2, 3), np.uint8)])
