"""A table through a head: the same table as embedding with the head gives, and only for the head's own encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.encoders import make_space
from pipelines.evaluation.alignment import align
from pipelines.evaluation.prepare import prepare
from pipelines.tables.ledger import done_shards
from pipelines.tables.table import VectorTable
from pipelines.training.apply_head import apply_head
from pipelines.training.head_data import read_head_data
from pipelines.training.train_head import TrainedHead
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.config import EncoderConfig, EvaluateConfig, TrustConfig
from schemas.errors import SpaceMismatch
from tests.support.head_tables import encode, head_config, square_rows
from tests.support.labelled_tables import refuse_to_embed


def test_a_table_through_a_head_is_what_embedding_with_it_gives(
    squares: VectorTable, pair_head: TrainedHead, tmp_path: Path
) -> None:
    uri = str(tmp_path / "joint.lance")
    assert apply_head(squares, pair_head.path, uri) == 24
    joint = VectorTable.open(uri, trust=TrustConfig(encoder_path=str(pair_head.path)))
    head = EncoderConfig(name="matryoshka-head", path=str(pair_head.path))
    assert joint.space == make_space(head)
    rows = joint.dataset.to_table(columns=["id", "label", "vector"])
    wanted_ND = encode(head, [row[0] for row in square_rows()])[[int(place) for place in rows["id"].to_pylist()]]
    found_ND = to_numpy(rows["vector"]).astype(np.float32)
    assert (np.sum(found_ND * wanted_ND, axis=1) > 0.999).all()
    assert done_shards(joint) == done_shards(squares)
    assert apply_head(squares, pair_head.path, uri) == 0
    nearest = np.argmax(cut(found_ND, 4) @ cut(joint.encode_query("a red square"), 4))
    assert joint.search("a red square", k=1, dim=4)["id"][0] == rows["id"][nearest]


def test_the_queries_of_an_evaluation_are_rows_that_the_head_did_not_learn_from(
    corpus: VectorTable, label_head: TrainedHead, tmp_path: Path
) -> None:
    uri = str(tmp_path / "x.lance")
    apply_head(corpus, label_head.path, uri)
    data = read_head_data(head_config("head-from-labels", corpus, tmp_path, data={"label": "label"}))
    ids = corpus.dataset.to_table(columns=["id"])["id"].to_numpy(zero_copy_only=False)
    config = EvaluateConfig.model_validate({"folder": "x", "systems": [{"name": "head", "database": uri}]})
    samples = align(config, prepare(config, refuse_to_embed)).samples
    assert set(samples.queries.to_pylist()) == {*ids[data.is_held_out_N]}
    assert set(samples.database.to_pylist()) == {*ids[~data.is_held_out_N]}


def test_a_head_of_another_encoder_is_refused(squares: VectorTable, label_head: TrainedHead, tmp_path: Path) -> None:
    with pytest.raises(SpaceMismatch, match="was not trained on"):
        apply_head(squares, label_head.path, str(tmp_path / "x.lance"))
