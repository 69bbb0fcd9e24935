"""A training config must fit its task, and a refusal names what is missing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.config import LossConfig, RunConfig, TrainConfig
from schemas.errors import ConfigError

CLASSIFY: dict[str, Any] = {
    "kind": "classify",
    "out": "o",
    "model": {"image": "vit-small"},
    "data": {"train": "pictures"},
    "loss": {"dims": [4, 8]},
}
HEAD: dict[str, Any] = {"kind": "head-from-nothing", "out": "o", "data": {"table": "t.lance"}, "loss": {"dims": [4]}}


def test_one_pattern_is_a_list_of_one() -> None:
    assert TrainConfig.model_validate(CLASSIFY).data.train == ("pictures",)


def test_a_head_is_told_from_a_whole_model() -> None:
    assert TrainConfig.model_validate(HEAD).is_head
    assert not TrainConfig.model_validate(CLASSIFY).is_head


@pytest.mark.parametrize(
    ("base", "change", "said"),
    [
        (CLASSIFY, {"model": {}}, "kind=classify needs model.image"),
        (CLASSIFY, {"data": {"train": "x", "input": {"image": "png"}}}, "kind=classify needs data.label"),
        (CLASSIFY, {"data": {"train": "x", "input": {"text": "t"}, "label": "l"}}, "learns from data.input.image"),
        (CLASSIFY, {"into": "t.lance"}, "into is for a head"),
        (CLASSIFY, {"kind": "pairs"}, "needs model.text and model.width and data.input and data.caption"),
        (HEAD, {"kind": "head-from-labels"}, "kind=head-from-labels needs data.label"),
        (HEAD, {"run": {"workers": 2}}, "a head is trained by one worker"),
        (HEAD, {"run": {"accumulate": 2}}, "run.accumulate is for kind=classify"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(base: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainConfig.model_validate(base | change)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"dims": [8, 4]}, "ascend"),
        ({"dims": [0, 4]}, "greater than or equal to 1"),
        ({"dims": [4, 8], "weights": [1]}, "1 weights for 2 dims"),
    ],
)
def test_a_ladder_ascends_and_has_a_weight_for_each_dim(loss: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LossConfig.model_validate(loss)


def test_a_batch_divides_into_workers_and_parts() -> None:
    assert RunConfig(batch=12, workers=3, accumulate=2).batch == 12
    with pytest.raises(ConfigError, match="batch=10 does not divide into 3 workers times 1 parts"):
        RunConfig(batch=10, workers=3)
