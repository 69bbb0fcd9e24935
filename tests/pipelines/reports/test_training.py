"""What `jobs train` prints: JSON lines, epochs, the quality of a head, the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.reports.training import TrainingScreen, print_head, print_plan
from pipelines.training.history import EpochResult, StepReport
from pipelines.training.train_head import TrainedHead
from tests.support.tiny_training import write_folder
from tests.support.training_data import config_for

EPOCH = EpochResult(2, 0.5, {4: 0.3, 8: 0.2}, {4: 0.25, 8: 0.75}, 1.5, 100.0)
REPORT = StepReport(10, 40, 0.5, 100.0, EPOCH, saved=True)


def test_a_report_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingScreen(Console(stderr=True), "json") as screen:
        screen.show(REPORT)
    line = json.loads(capsys.readouterr().out)
    assert (line["job"], line["step"], line["epoch"]["right_by_dim"]) == ("train", 10, {"4": 0.25, "8": 0.75})


def test_an_epoch_is_one_line_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingScreen(Console(width=200, highlight=False), "screen") as screen:
        screen.show(REPORT)
    assert "epoch   2  loss 0.500  1.5 s  4: 25.0%  8: 75.0%" in capsys.readouterr().out


def test_a_head_is_shown_beside_its_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    shares, plain, pca = {4: 0.5, 64: 0.418, 512: 0.75}, {4: 0.25, 64: 0.4}, {4: 0.375, 64: 0.421}
    print_head(TrainedHead(Path("out/encoder"), "1-NN accuracy", shares, "cut", plain, pca, 30), Console(width=200))
    said = capsys.readouterr().out
    for words in ("validation split of 30 rows", "0.250", "0.375", "0.750", "encoder.path=out/encoder"):
        assert words in said
    assert "the head does not pay at 64 dims (0.418, 0.421) (with it, and without)" in said
    print_head(TrainedHead(Path("out/encoder"), "R@10", shares, held_out=30), Console(width=200))
    assert "does not pay" not in (said := capsys.readouterr().out)
    assert "PCA" not in said


def test_the_plan_of_a_model_names_its_size_and_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(config_for(train=str(write_folder(tmp_path / "images"))), Console(width=200))
    said = capsys.readouterr().out
    for words in ("classify", "parameters", "24 samples, 3 classes", "10 epochs of 4, 6 samples each", "2, 8"):
        assert words in said
