"""Training data of heads: the validation split depends on keys alone; captions and labels that cannot serve."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tables.table import VectorTable
from pipelines.training.head_data import choose_held_out, encode_captions, read_head_data
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


@given(st.lists(st.text(max_size=6), min_size=1, max_size=50), st.floats(0, 1), st.integers(0, 9))
def test_the_validation_split_depends_on_the_key_alone(keys: list[str], share: float, seed: int) -> None:
    whole = dict(zip(keys, choose_held_out(keys, share, seed), strict=True))
    assert all(choose_held_out([key], share, seed)[0] == chosen for key, chosen in whole.items())
    assert not choose_held_out(keys, 0.0, seed).any()
    assert choose_held_out(keys, 1.0, seed).all()


def test_the_share_held_out_is_about_what_was_asked() -> None:
    assert choose_held_out([str(i) for i in range(10_000)], 0.15).mean() == pytest.approx(0.15, abs=0.02)


def test_captions_and_labels_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not embed texts"):
        encode_captions("efficientnet-lite0", ["words"])
    with pytest.raises(ConfigError, match=r"caption of row 1, ''"):
        encode_captions("wordllama", ["words", ""])
    rows = [("owl", "bird", "owl"), ("lark", "bird", "lark")]
    birds = make_head_table(tmp_path / "one.lance", WORDS, rows, shards=1)
    with pytest.raises(InputError, match="two or more are needed"):
        read_head_data(head_config("head-from-labels", birds, tmp_path, data={"label": "label"}))
