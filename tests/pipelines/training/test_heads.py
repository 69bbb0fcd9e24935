"""Heads on frozen vectors, from labels, pairs and nothing: what is saved is what runs; a table through a head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.encoders import encode_query, load_encoder, load_preparer, make_space
from pipelines.encoders.checkpoints import read_head
from pipelines.tables.rotate import rotate_here
from pipelines.tables.table import VectorTable
from pipelines.training.frozen import encode_captions, held_out, read_frozen
from pipelines.training.heads import Stack
from pipelines.training.project import project
from pipelines.training.train_head import read_trained, train_head
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.config import EncoderConfig, LimitsConfig
from schemas.config.training import TrainConfig
from schemas.errors import ConfigError, FieldNotFound, InputError, SpaceMismatch, TableNotFound
from schemas.records import LeaseResult, Shard, ShardCount
from tests.support.corpus import texts
from tests.support.tiny_training import COLOURS, picture

WORDS = EncoderConfig(name="wordllama")
PICTURES = EncoderConfig(name="efficientnet-lite0")
KEPT = pa.schema([pa.field("label", pa.string()), pa.field("words", pa.string())])


def encoded(config: EncoderConfig, inputs: Sequence[Any]) -> npt.NDArray[np.float32]:
    return load_encoder(config).encode(load_preparer(config, LimitsConfig()).prepare(inputs))  # type: ignore[arg-type]


def make_table(uri: Path, config: EncoderConfig, rows: Sequence[tuple[Any, str, str]], shards: int = 2) -> VectorTable:
    """A table of (input, label, words) as `jobs embed` would make it."""
    table = VectorTable.create(str(uri), make_space(config), KEPT)
    vectors_ND = encoded(config, [row[0] for row in rows])
    for number in range(shards):
        shard, places = Shard(f"/src/{number}.tar", 1, "1", "webdataset"), range(number, len(rows), shards)
        columns = [
            pa.array([f"{place}" for place in places]),
            pa.array([shard.id] * len(places)),
            pa.array([rows[place][1] for place in places]),
            pa.array([rows[place][2] for place in places]),
            to_arrow(vectors_ND[places]),
        ]
        batch = pa.RecordBatch.from_arrays(columns, names=["id", "shard", "label", "words", "vector"])
        result = LeaseResult((ShardCount(shard, len(places), 0),), table.write_fragments([batch]), (), len(places))
        table.commit([result], "test")
    return table.refresh()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    words = texts("t", 240, 0).values()
    # A class that words decide and likeness does not: which of two of them comes more often.
    rows = [(text, "night" if text.count("owl") > text.count("garden") else "day", text) for text in words]
    return make_table(tmp_path_factory.mktemp("corpus") / "t.lance", WORDS, rows)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    """Coloured squares, rotated, as the demo's emoji are."""
    rows = [(picture(colour, i), colour, f"a {colour} square") for i, colour in enumerate([*COLOURS] * 8)]
    return rotate_here(make_table(tmp_path_factory.mktemp("squares") / "s.lance", PICTURES, rows))


def config_for(kind: str, table: VectorTable, out: Path, **blocks: Any) -> TrainConfig:
    run = {"epochs": 10, "batch": 64, "precision": "float32", "device": "cpu", "tensorboard": False}
    return TrainConfig.model_validate(
        {
            "kind": kind,
            "out": str(out),
            "model": blocks.get("model", {}),
            "data": {"table": table.uri, "held_out": 0.2} | blocks.get("data", {}),
            "loss": {"dims": [4, 8, 16]} | blocks.get("loss", {}),
            "optimiser": {"name": "adamw", "lr": 0.01},
            "run": run | blocks.get("run", {}),
        }
    )


def test_from_labels_the_nearest_is_of_the_same_class_more_often(corpus: VectorTable, tmp_path: Path) -> None:
    config = config_for("head-from-labels", corpus, tmp_path, data={"label": "label"}, run={"epochs": 30})
    trained = train_head(config)
    assert trained.by_dim.keys() == {4, 8, 16}
    assert trained.held_out == pytest.approx(48, abs=20)
    assert trained.by_dim[16] > trained.before[16] + 0.05
    assert read_trained(tmp_path) == trained
    space = make_space(EncoderConfig(name="matryoshka-head", path=str(trained.path)))
    assert space.ladder.dims == (4, 8, 16)


def test_from_nothing_a_linear_head_starts_as_the_rotation_and_an_mlp_is_trained(
    corpus: VectorTable, tmp_path: Path
) -> None:
    trained = train_head(config_for("head-from-nothing", corpus, tmp_path / "linear", loss={"dims": [8, 64, 128]}))
    assert trained.beside == "a PCA rotation"
    assert trained.by_dim[128] > 0.7
    assert trained.by_dim[8] == pytest.approx(trained.before[8], abs=0.1)
    mlp = train_head(config_for("head-from-nothing", corpus, tmp_path / "mlp", model={"hidden": [32]}))
    assert mlp.by_dim[16] > 0.2
    assert len(read_head(mlp.path).dims) == 3


def test_from_pairs_words_find_pictures_in_the_joint_space(squares: VectorTable, tmp_path: Path) -> None:
    assert squares.rotation is not None
    config = config_for(
        "head-from-pairs", squares, tmp_path, data={"caption": "words", "noise": 0.1}, run={"epochs": 80}
    )
    trained = train_head(config)
    space = make_space(EncoderConfig(name="matryoshka-head", path=str(trained.path)))
    pixels = encode_query(space, picture("blue", 999))
    scores = {colour: float(encode_query(space, f"a {colour} square") @ pixels) for colour in COLOURS}
    assert max(scores, key=lambda colour: scores[colour]) == "blue"


def test_a_table_through_a_head_is_what_embedding_with_it_gives(squares: VectorTable, tmp_path: Path) -> None:
    trained = train_head(config_for("head-from-pairs", squares, tmp_path, data={"caption": "words"}))
    uri = str(tmp_path / "joint.lance")
    assert project(squares, trained.path, uri) == 24
    joint = VectorTable.open(uri)
    head = EncoderConfig(name="matryoshka-head", path=str(trained.path))
    assert joint.space == make_space(head)
    rows = joint.dataset.to_table(columns=["id", "label", "vector"])
    inputs = [picture(colour, i) for i, colour in enumerate([*COLOURS] * 8)]
    wanted_ND = encoded(head, inputs)[[int(place) for place in rows["id"].to_pylist()]]
    found_ND = to_numpy(rows["vector"]).astype(np.float32)
    assert (np.sum(found_ND * wanted_ND, axis=1) > 0.999).all()
    assert joint.done_shards() == squares.done_shards()
    assert project(squares, trained.path, uri) == 0
    nearest = np.argmax(cut(found_ND, 4) @ cut(joint.encode_query("a red square"), 4))
    assert joint.search("a red square", k=1, dims=4)["id"][0] == rows["id"][nearest]


def test_a_head_for_another_encoder_takes_no_table(corpus: VectorTable, squares: VectorTable, tmp_path: Path) -> None:
    trained = train_head(config_for("head-from-labels", corpus, tmp_path, data={"label": "label"}, run={"epochs": 1}))
    with pytest.raises(SpaceMismatch, match="was not trained on"):
        project(squares, trained.path, str(tmp_path / "x.lance"))


def test_rows_of_one_group_are_held_out_together(squares: VectorTable, tmp_path: Path) -> None:
    config = config_for(
        "head-from-labels", squares, tmp_path, data={"label": "label", "group": "words", "held_out": 0.5}
    )
    frozen = read_frozen(config)
    labels = squares.dataset.to_table(columns=["label"])["label"].to_numpy(zero_copy_only=False)
    for colour in COLOURS:
        assert len(set(frozen.is_held_out_N[labels == colour])) == 1
    without = config.data.model_copy(update={"group_without": tuple(COLOURS)})
    together = read_frozen(config.model_copy(update={"data": without}))
    assert len(set(together.is_held_out_N)) == 1


@given(st.lists(st.text(max_size=6), min_size=1, max_size=50), st.floats(0, 1), st.integers(0, 9))
def test_what_is_held_out_depends_on_the_key_alone(keys: list[str], share: float, seed: int) -> None:
    whole = dict(zip(keys, held_out(keys, share, seed), strict=True))
    assert all(held_out([key], share, seed)[0] == chosen for key, chosen in whole.items())
    assert not held_out(keys, 0.0, seed).any()
    assert held_out(keys, 1.0, seed).all()


def test_the_share_held_out_is_about_what_was_asked() -> None:
    assert held_out([str(i) for i in range(10_000)], 0.15).mean() == pytest.approx(0.15, abs=0.02)


def test_an_interrupted_head_ends_the_same(corpus: VectorTable, tmp_path: Path) -> None:
    def config(out: str, every: int | None) -> TrainConfig:
        changes = {"epochs": 3, "checkpoint_steps": every}
        return config_for(
            "head-from-labels", corpus, tmp_path / out, data={"label": "label", "noise": 0.5}, run=changes
        )

    whole = train_head(config("whole", None))
    stopped = train_head(config("broken", 1), lambda reached: reached.step >= 4)
    assert stopped.is_stopped
    assert read_trained(tmp_path / "broken") is None
    resumed = train_head(config("broken", None))
    files = [trained.path / "head.safetensors" for trained in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_rotation_of_a_table_goes_into_the_first_layer(squares: VectorTable) -> None:
    assert squares.rotation is not None
    stack, raw_BT = Stack((1280, 16, 8)), np.random.default_rng(0).normal(size=(5, 1280)).astype(np.float32)
    weight, bias = stack.layers(squares.rotation)[0].weight, stack.linears[0].bias
    turned_BT = torch.from_numpy(squares.rotation.apply(raw_BT))
    folded = torch.from_numpy(raw_BT) @ weight.T + bias
    torch.testing.assert_close(folded, stack.linears[0](turned_BT), atol=1e-4, rtol=1e-4)
    assert cut(folded, 8).shape == (5, 8)


def test_what_cannot_be_learnt_from_is_refused(corpus: VectorTable, squares: VectorTable, tmp_path: Path) -> None:
    with pytest.raises(FieldNotFound, match=r"no column 'lable'; did you mean 'label'"):
        train_head(config_for("head-from-labels", corpus, tmp_path, data={"label": "lable"}))
    with pytest.raises(ConfigError, match="one tower of texts"):
        train_head(config_for("head-from-pairs", corpus, tmp_path, data={"caption": "words"}))
    with pytest.raises(TableNotFound):
        train_head(config_for("head-from-nothing", corpus, tmp_path, data={"table": str(tmp_path / "none.lance")}))
    with pytest.raises(ConfigError, match="does not embed texts"):
        encode_captions("efficientnet-lite0", ["words"])
    with pytest.raises(ConfigError, match=r"caption of row 1, ''"):
        encode_captions("wordllama", ["words", ""])
    birds = make_table(tmp_path / "one.lance", WORDS, [("owl", "bird", "owl"), ("lark", "bird", "lark")], shards=1)
    with pytest.raises(InputError, match="two or more are needed"):
        train_head(config_for("head-from-labels", birds, tmp_path, data={"label": "label"}))
