"""Training data of heads: groups are held out whole; captions and labels that cannot serve are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.tables.table import VectorTable
from pipelines.training.head_data import encode_captions, read_head_data
from schemas.errors import ConfigError, InputError
from tests.support.head_tables import WORDS, head_config, make_head_table
from tests.support.tiny_training import COLOURS


def test_rows_of_one_group_are_held_out_together(squares: VectorTable, tmp_path: Path) -> None:
    data = {"label": "label", "group": "words", "held_out": 0.5}
    config = head_config("head-from-labels", squares, tmp_path, data=data)
    found = read_head_data(config)
    labels = squares.dataset.to_table(columns=["label"])["label"].to_numpy(zero_copy_only=False)
    for colour in COLOURS:
        assert len(set(found.is_held_out_N[labels == colour])) == 1
    without = config.data.model_copy(update={"group_without": tuple(COLOURS)})
    together = read_head_data(config.model_copy(update={"data": without}))
    assert len(set(together.is_held_out_N)) == 1


def test_captions_and_labels_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not embed texts"):
        encode_captions("efficientnet-lite0", ["words"])
    with pytest.raises(ConfigError, match=r"caption of row 1, ''"):
        encode_captions("wordllama", ["words", ""])
    rows = [("owl", "bird", "owl"), ("lark", "bird", "lark")]
    birds = make_head_table(tmp_path / "one.lance", WORDS, rows, shards=1)
    with pytest.raises(InputError, match="two or more are needed"):
        read_head_data(head_config("head-from-labels", birds, tmp_path, data={"label": "label"}))
