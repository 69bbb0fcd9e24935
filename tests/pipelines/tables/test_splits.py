"""A split is recorded in a table, and holds out its rows by any column."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.tables.splits import held_out_ids, record_split, split_of
from schemas.errors import FieldNotFound
from schemas.splits import Split
from tests.support.small_tables import a_shard, commit_shards, new_table


def test_a_recorded_split_is_read_back_and_the_space_stays(tmp_path: Path) -> None:
    table, split = new_table(tmp_path), Split(share=0.25, seed=3)
    assert split_of(table) is None
    recorded = record_split(table, split)
    assert split_of(recorded) == split
    assert recorded.space == table.space
    assert record_split(recorded, split).dataset.version == recorded.dataset.version
    assert record_split(recorded, None) is recorded


def test_rows_of_one_key_are_held_out_together(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rows=60)
    table = table.refresh()
    rows = table.dataset.to_table(columns=["id", "half"]).to_pylist()
    split = Split(column="half", share=0.5, seed=1)
    wanted = {row["id"] for row in rows if split.holds_out(row["half"])}
    assert held_out_ids(table, split) == wanted
    assert 0 < len(held_out_ids(table, Split(share=0.5))) < 60
    with pytest.raises(FieldNotFound, match=r"no column 'hafl', by which rows are held out; did you mean 'half'"):
        held_out_ids(table, Split(column="hafl", share=0.5))
