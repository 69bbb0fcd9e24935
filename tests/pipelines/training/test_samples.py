"""Samples of shards and folders: counted once, shuffled without loss; folders and shards that cannot be read."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.samples import Sample, list_folder, shuffle_buffered, survey
from schemas.errors import InputError
from tests.support.tiny_training import COLOURS, write_folder, write_tars
from tests.support.training_data import config_for, of_tars


def test_a_survey_counts_samples_and_sorts_classes(tmp_path: Path) -> None:
    found = survey(of_tars(write_tars(tmp_path / "t")))
    assert (found.samples, found.classes, found.tokenizer) == (24, ("0", "1", "2"), "")
    folder = write_folder(tmp_path / "f")
    assert survey(config_for(train=str(folder))).classes == tuple(sorted(COLOURS))
    assert [one.extra for one in list_folder([str(folder)])] == sorted([*COLOURS] * 8)


def test_what_the_config_gives_is_not_read() -> None:
    known = survey(config_for(train="nowhere/*.tar", input={"image": "png"}, label="cls", samples=24, classes=3))
    assert (known.samples, known.classes) == (24, ("0", "1", "2"))


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not one folder"):
        survey(config_for(train=str(tmp_path / "none")))
    with pytest.raises(InputError, match="no image in any subfolder"):
        survey(config_for(train=str(tmp_path)))


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 100))
def test_shuffling_loses_nothing_and_doubles_nothing(count: int, buffer: int, seed: int) -> None:
    stream = [Sample(str(i)) for i in range(count)]
    found = list(shuffle_buffered(stream, buffer, random.Random(seed)))
    assert sorted(found) == sorted(stream)
