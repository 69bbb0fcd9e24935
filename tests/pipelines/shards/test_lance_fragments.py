"""Fragments of Lance tables as shards."""

from __future__ import annotations

from pathlib import Path

import lance
import pyarrow as pa
import pytest

from pipelines.shards import list_shards, read_blocks, shard_schema
from schemas.config import InputConfig
from schemas.errors import FieldNotFound, ShardUnreadable
from tests.support.shard_files import read

TEXT = InputConfig(text="text", id="key", keep=("n",))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    rows = 30
    table = pa.table(
        {
            "key": [f"k{i}" for i in range(rows)],
            "text": [f"t{i}" if i % 7 else None for i in range(rows)],
            "n": range(rows),
        }
    )
    lance.write_dataset(table, str(tmp_path / "t.lance"), max_rows_per_file=10)
    return str(tmp_path / "t.lance")


def test_fragments_are_read_like_files(uri: str) -> None:
    shards = list_shards([uri])
    got = [read(shard, TEXT) for shard in shards]
    assert [len(each.rows) for each in got] == [8, 9, 8]
    assert got[1].rows[0] == {"id": "k10", "position": 0, "input": "t10", "n": 10}
    assert [reject.key for each in got for reject in each.rejects] == ["k0", "k7", "k14", "k21", "k28"]
    assert shard_schema(shards[0], TEXT) == pa.schema([("n", pa.int64())])


def test_deleted_rows_are_left_out(uri: str) -> None:
    lance.dataset(uri).delete("n = 1")
    got = read(list_shards([uri])[0], TEXT)
    assert [row["id"] for row in got.rows] == ["k2", "k3", "k4", "k5", "k6", "k8", "k9"]


def test_a_fragment_that_changed(uri: str) -> None:
    shards = list_shards([uri])
    lance.dataset(uri).delete("n = 1")
    with pytest.raises(ShardUnreadable, match="has changed since it was listed"):
        next(read_blocks(shards[0], TEXT))
    assert len(read(shards[1], TEXT).rows) == 9


def test_missing_fields_are_refused(uri: str) -> None:
    with pytest.raises(FieldNotFound, match="no field 'txt'; did you mean 'text'"):
        shard_schema(list_shards([uri])[0], InputConfig(text="txt"))
