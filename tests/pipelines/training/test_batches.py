"""Batches of shards and folders: every sample in an epoch, in an order that a resumed run repeats; bad samples."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.batches import random_box
from pipelines.training.tasks import IGNORED
from schemas.config.training import TrainConfig
from schemas.errors import ConfigError, TooManyRejects
from tests.support.tiny_training import COLOURS, write_folder, write_tars
from tests.support.training_data import are_same, batches, config_for, of_tars
from tests.support.training_workers import as_worker


@pytest.fixture(params=["folder", "shards"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> TrainConfig:
    if request.param == "folder":
        return config_for(train=str(write_folder(tmp_path / "train")), valid=str(tmp_path / "train"))
    return of_tars(write_tars(tmp_path / "train"), valid=f"{tmp_path}/train/*.tar")


def test_an_epoch_holds_every_sample_once_with_its_class(config: TrainConfig) -> None:
    found = batches(config)
    assert len(found) == 4
    pixels, labels = (torch.cat(column) for column in zip(*found, strict=True))
    assert pixels.shape == (24, 24, 24, 3)
    assert pixels.dtype == torch.uint8
    assert Counter(labels.tolist()) == {0: 8, 1: 8, 2: 8}
    assert len({one.numpy().tobytes() for one in pixels}) == 24
    # The strongest channel of a picture is that of its colour; folders sort their classes by name.
    names = sorted(COLOURS) if config.data.input is None else list(COLOURS)
    strongest = pixels.float().mean((1, 2)).argmax(1)
    assert [("red", "green", "blue")[i] for i in strongest] == [names[label] for label in labels]


def test_a_resumed_epoch_gives_what_is_left_and_each_epoch_another_order(config: TrainConfig) -> None:
    config = config.model_copy(update={"data": config.data.model_copy(update={"augment": True})})
    assert are_same(batches(config, 1)[2:], batches(config, 1, 2))
    assert are_same(batches(config, 0), batches(config, 0))
    assert not are_same(batches(config, 0), batches(config, 1))


def test_what_is_held_out_comes_whole_and_in_order(config: TrainConfig) -> None:
    first, again = batches(config, is_valid=True), batches(config, 1, is_valid=True)
    assert are_same(first, again)
    assert sum(len(labels) for _, labels in first) == 24


def test_workers_get_different_samples_and_together_all(config: TrainConfig) -> None:
    seen = []
    for rank in range(2):
        with as_worker(rank, 2):
            found = batches(config)
        assert [len(labels) for _, labels in found] == [3] * 4
        seen.append({one.numpy().tobytes() for pixels, _ in found for one in pixels})
    assert len(seen[0] | seen[1]) == 24


def test_fewer_shards_than_workers_are_shared_sample_by_sample(tmp_path: Path) -> None:
    config, seen = of_tars(write_tars(tmp_path / "t", shards=1, each=24)), []
    for rank in range(2):
        with as_worker(rank, 2):
            found = batches(config)
        seen.append({one.numpy().tobytes() for pixels, _ in found for one in pixels})
    assert (len(seen[0]), len(seen[1]), len(seen[0] | seen[1])) == (12, 12, 24)


def test_a_bad_picture_gives_its_place_to_another_until_there_are_too_many(tmp_path: Path) -> None:
    few = of_tars(write_tars(tmp_path / "few", each=12, bad=1))
    found = batches(few)
    assert [len(labels) for _, labels in found] == [6] * 4
    many = of_tars(write_tars(tmp_path / "many", shards=4, each=12, bad=8))
    with pytest.raises(TooManyRejects, match=r"max_reject_fraction.*not an image"):
        batches(many)


def test_pairs_bring_pixels_and_padded_tokens(tmp_path: Path) -> None:
    shards = f"{write_tars(tmp_path / 't')}/*.tar"
    config = config_for("pairs", train=shards, input={"image": "png"}, caption="txt")
    for pixels, ids, mask in batches(config):
        assert pixels.shape == (6, 24, 24, 3)
        assert ids.shape == mask.shape
        assert (ids[:, 0] == 2).all()  # [CLS]
        assert ((ids != 0) == mask.bool()).all()


def test_words_are_masked_anew_in_each_epoch(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(f'{{"text": "the owl number {i} sleeps by the river"}}\n' for i in range(24)))
    config = config_for("mlm", train=str(file), input={"text": "text"})
    config = config.model_copy(update={"model": config.model.model_copy(update={"width": None})})
    ids, _, targets = batches(config)[0]
    asked = targets != IGNORED
    assert asked.any()
    assert (ids[~asked] != 4).all()
    assert not are_same(batches(config, 0), batches(config, 1))


def test_a_class_that_training_never_saw_is_refused(tmp_path: Path) -> None:
    config = of_tars(write_tars(tmp_path / "t"), samples=24, classes=2)
    with pytest.raises(ConfigError, match="class '2' is not among the 2"):
        batches(config)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10_000))
def test_a_crop_lies_within_the_picture(wide: int, high: int, seed: int) -> None:
    left, top, right, bottom = random_box(wide, high, random.Random(seed))
    assert 0 <= left < right <= wide
    assert 0 <= top < bottom <= high
