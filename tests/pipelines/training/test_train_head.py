"""Heads from labels, pairs and vectors alone: they learn, resume exactly, and refuse what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.encoders import encode_query, make_space
from pipelines.encoders.checkpoints import read_head
from pipelines.tables.table import VectorTable
from pipelines.training.train_head import TrainedHead, read_trained, train_head
from schemas.config import EncoderConfig, TrustConfig
from schemas.config.training import TrainConfig
from schemas.errors import ConfigError, FieldNotFound, TableNotFound
from tests.support.head_tables import head_config
from tests.support.tiny_training import COLOURS, picture


def test_from_labels_the_nearest_is_of_the_same_class_more_often(label_head: TrainedHead) -> None:
    assert label_head.by_dim.keys() == {4, 8, 16}
    assert label_head.held_out == pytest.approx(48, abs=20)
    assert label_head.by_dim[16] > (label_head.best_untrained(16) or 1) + 0.05
    assert label_head.pca.keys() == label_head.before.keys() == label_head.by_dim.keys()
    assert 16 not in label_head.idle_dims
    assert read_trained(label_head.path.parent) == label_head
    space = make_space(EncoderConfig(name="matryoshka-head", path=str(label_head.path)))
    assert space.ladder.dims == (4, 8, 16)


def test_from_nothing_a_linear_head_starts_as_the_rotation_and_an_mlp_is_trained(
    corpus: VectorTable, tmp_path: Path
) -> None:
    trained = train_head(head_config("head-from-nothing", corpus, tmp_path / "linear", loss={"dims": [8, 64, 128]}))
    assert trained.by_dim[128] > 0.7
    assert trained.by_dim[8] == pytest.approx(trained.pca[8], abs=0.1)
    assert trained.pca[8] > trained.before[8]
    mlp = train_head(head_config("head-from-nothing", corpus, tmp_path / "mlp", model={"hidden": [32]}))
    assert mlp.by_dim[16] > 0.2
    assert len(read_head(mlp.path).dims) == 3


def test_from_pairs_words_find_pictures_in_the_joint_space(squares: VectorTable, pair_head: TrainedHead) -> None:
    assert squares.rotation is not None
    space = make_space(EncoderConfig(name="matryoshka-head", path=str(pair_head.path)))
    trust = TrustConfig(encoder_path=str(pair_head.path))
    pixels = encode_query(space, picture("blue", 999), trust)
    scores = {colour: float(encode_query(space, f"a {colour} square", trust) @ pixels) for colour in COLOURS}
    assert max(scores, key=lambda colour: scores[colour]) == "blue"


def test_an_interrupted_head_ends_the_same(corpus: VectorTable, tmp_path: Path) -> None:
    def config(out: str, every: int | None) -> TrainConfig:
        changes = {"epochs": 3, "checkpoint_steps": every}
        return head_config(
            "head-from-labels", corpus, tmp_path / out, data={"label": "label", "noise": 0.5}, run=changes
        )

    whole = train_head(config("whole", None))
    stopped = train_head(config("broken", 1), lambda report: report.step >= 4)
    assert stopped.is_stopped
    assert read_trained(tmp_path / "broken") is None
    resumed = train_head(config("broken", None))
    files = [trained.path / "head.safetensors" for trained in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_settings_that_do_not_fit_the_table_are_refused(corpus: VectorTable, tmp_path: Path) -> None:
    with pytest.raises(FieldNotFound, match=r"no column 'lable'; did you mean 'label'"):
        train_head(head_config("head-from-labels", corpus, tmp_path, data={"label": "lable"}))
    with pytest.raises(ConfigError, match="one tower of texts"):
        train_head(head_config("head-from-pairs", corpus, tmp_path, data={"caption": "words"}))
    with pytest.raises(TableNotFound):
        train_head(head_config("head-from-nothing", corpus, tmp_path, data={"table": str(tmp_path / "none.lance")}))
