"""Tables for heads, and one trained head of each kind, shared by the tests of this room."""

from __future__ import annotations

import pytest

from pipelines.tables.table import VectorTable
from pipelines.training.train_head import TrainedHead, train_head
from tests.support.corpus import texts
from tests.support.head_tables import PICTURES, WORDS, head_config, make_head_table, square_rows
from tests.support.small_tables import rotate_table


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    """Texts with a class that depends on their words: which of two words comes more often."""
    words = texts("t", 240, 0).values()
    rows = [(text, "night" if text.count("owl") > text.count("garden") else "day", text) for text in words]
    return make_head_table(tmp_path_factory.mktemp("corpus") / "t.lance", WORDS, rows)


@pytest.fixture(scope="package")
def squares(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    """Coloured squares, rotated, as the demo's emoji are."""
    return rotate_table(make_head_table(tmp_path_factory.mktemp("squares") / "s.lance", PICTURES, square_rows()))


@pytest.fixture(scope="package")
def label_head(corpus: VectorTable, tmp_path_factory: pytest.TempPathFactory) -> TrainedHead:
    """A head from the labels of `corpus`."""
    out = tmp_path_factory.mktemp("label-head")
    return train_head(head_config("head-from-labels", corpus, out, data={"label": "label"}, run={"epochs": 30}))


@pytest.fixture(scope="package")
def pair_head(squares: VectorTable, tmp_path_factory: pytest.TempPathFactory) -> TrainedHead:
    """A head from the pairs of `squares`."""
    out, data = tmp_path_factory.mktemp("pair-head"), {"caption": "words", "noise": 0.1}
    return train_head(head_config("head-from-pairs", squares, out, data=data, run={"epochs": 40}))
