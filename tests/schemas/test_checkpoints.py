"""Files of trained models are read with their number, and refused with what to do."""

from __future__ import annotations

import json

import pytest

from schemas.checkpoints import FrozenTower, HeadFile, HeadMeasurements, ModelFile, check_checkpoint
from schemas.config import LossConfig, ModelConfig
from schemas.errors import ConfigError

HEAD = HeadFile(dims=(4, 16), towers={"text": FrozenTower(name="wordllama", space="s")})
STATE = dict.fromkeys(["identity", "task", "optimiser", "scaler", "sums", "step", "epochs"])


def test_a_head_file_is_read_back() -> None:
    assert HeadFile.from_json(HEAD.to_json(), "f") == HEAD
    assert json.loads(HEAD.to_json())["format"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dims": [16, 4]}, "dims must ascend"),
        ({"towers": {}}, "towers"),
        ({"format": 2}, "needs a newer matryoshka-lake"),
        ({"colour": 1}, "colour: unknown key"),
    ],
)
def test_a_malformed_head_file_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"f: head.json of a Matryoshka head .*{said}"):
        HeadFile.from_json(json.dumps(json.loads(HEAD.to_json()) | change), "f")


def test_the_measurements_of_a_head_are_by_dim() -> None:
    text = '{"path": "p", "measure": "top-1", "by_dim": {"4": 0.5}, "beside": "", "before": {}, "held_out": 3}'
    measured = HeadMeasurements.from_json(text, "f")
    assert (measured.by_dim, measured.is_stopped) == ({4: 0.5}, False)
    assert HeadMeasurements.from_json(measured.to_json(), "f") == measured


@pytest.mark.parametrize(
    ("kind", "modalities"), [("classify", ("image",)), ("pairs", ("image", "text")), ("mlm", ("text",))]
)
def test_a_model_file_names_what_the_model_embeds(kind: str, modalities: tuple[str, ...]) -> None:
    file = ModelFile.model_validate({"kind": kind, "model": ModelConfig(), "loss": LossConfig(dims=(4,))})
    assert file.modalities == modalities
    assert ModelFile.from_json(file.to_json(), "f") == file


def test_a_training_checkpoint_is_whole_and_of_a_known_format() -> None:
    check_checkpoint(STATE, "f")
    with pytest.raises(ConfigError, match="f: the training checkpoint lacks step, epochs; delete it"):
        check_checkpoint({key: None for key in STATE if key not in ("step", "epochs")}, "f")
    with pytest.raises(ConfigError, match=r"needs matryoshka-lake 0\.9"):
        check_checkpoint(STATE | {"format": 2, "release": "0.9"}, "f")
    with pytest.raises(ConfigError, match="must hold a dict, not list"):
        check_checkpoint([], "f")
