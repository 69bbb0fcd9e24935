"""Whole models: trained, saved at the end, and saved from the last checkpoint of several workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipelines.encoders.checkpoints import read_model_file
from pipelines.training.samples import survey
from pipelines.training.train_model import save_checkpointed, train_model
from schemas.config.training import TrainConfig
from schemas.errors import RunError
from tests.support.tiny_training import shrink, write_folder
from tests.support.training_data import config_for


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    shrink(monkeypatch)
    config = config_for(train=str(write_folder(tmp_path / "images")))
    run = config.run.model_copy(update={"epochs": 2, "device": "cpu", "tensorboard": False})
    return config.model_copy(update={"out": str(tmp_path / "out"), "run": run})


def test_a_model_is_saved_at_its_end_and_out_of_its_checkpoint(config: TrainConfig) -> None:
    known, folder = survey(config), Path(config.out) / "encoder"
    with pytest.raises(RunError, match="left no checkpoint"):
        save_checkpointed(config, known)
    assert train_model(config, known, lambda report: report.step >= 1 and report.saved).is_stopped
    assert not save_checkpointed(config, known)
    assert not folder.exists()
    history = train_model(config, known)
    assert [epoch.epoch for epoch in history.epochs] == [1, 2]
    assert read_model_file(folder).classes == ("blue", "green", "red")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    assert save_checkpointed(config, known)
    again = load_file(folder / "model.safetensors")
    assert all((weight == again[name]).all() for name, weight in weights.items())
