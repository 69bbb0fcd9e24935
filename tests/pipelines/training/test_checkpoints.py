"""Checkpoints: written and read, refused for other settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.training.checkpoints import FILE, load_checkpoint, read_checkpoint, write_checkpoint
from schemas.errors import ConfigError

STATE = dict.fromkeys(["identity", "task", "optimiser", "scaler", "sums", "step", "epochs"])


def test_the_last_checkpoint_is_read_and_no_other_file_stays(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "run") is None
    for step in (1, 2):
        write_checkpoint(tmp_path / "run", STATE | {"identity": "a=1", "step": step, "sums": torch.ones(3)})
    state = read_checkpoint(tmp_path / "run", "a=1", {})
    assert state is not None
    assert (state["step"], state["sums"].tolist()) == (2, [1, 1, 1])
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FILE]


def test_a_checkpoint_of_other_settings_is_refused_and_the_difference_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, STATE | {"identity": "a=1\nb=2"})
    with pytest.raises(ConfigError, match="there b=2, here b=3"):
        read_checkpoint(tmp_path, "a=1\nb=3", {})
    with pytest.raises(ConfigError, match="there b=2, here b=None"):
        read_checkpoint(tmp_path, "a=1", {})


def test_a_setting_of_a_later_release_must_stand_at_its_default(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, STATE | {"identity": "a=1"})
    assert read_checkpoint(tmp_path, "a=1\nlater=5", {"later": "5"}) is not None
    with pytest.raises(ConfigError, match="there later=5, here later=6"):
        read_checkpoint(tmp_path, "a=1\nlater=6", {"later": "5"})


def test_a_checkpoint_that_is_damaged_or_newer_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, STATE | {"format": 2, "release": "0.9"})
    with pytest.raises(ConfigError, match=r"needs matryoshka-lake 0\.9 or newer"):
        load_checkpoint(tmp_path)
    for content in (b"", b"no checkpoint", (tmp_path / FILE).read_bytes()[:200]):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ConfigError, match="the training checkpoint cannot be read"):
            load_checkpoint(tmp_path)
