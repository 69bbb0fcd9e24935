"""Small vector tables whose contents the tests know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import unit
from schemas.columns import Ladder, Space
from schemas.records import LeaseResult, Shard, ShardCount

LADDER = (8, 16, 32)

Land = Callable[..., VectorTable]


def vectors(rows: int, seed: int, width: int = LADDER[-1]) -> np.ndarray:
    """Unit rows in half precision whose dims matter less and less, in loose clusters."""
    rng = np.random.default_rng(seed)
    spectrum = (1.0 + np.arange(width)) ** -0.5
    centres = np.random.default_rng(0).standard_normal((20, width))
    x = (centres[rng.integers(0, 20, rows)] + 0.7 * rng.standard_normal((rows, width))) * spectrum
    return unit(x.astype(np.float32)).astype(np.float16)


def land(table: VectorTable, x_BD: np.ndarray, shard: str, *, writer: VectorTable | None = None) -> VectorTable:
    """Land rows as one shard, with ids `<shard>-<position>`; `writer` is a handle that may be older than the table."""
    source = Shard(shard, len(x_BD), "1", "parquet")
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([f"{shard}-{i:05d}" for i in range(len(x_BD))]),
            pa.array(np.full(len(x_BD), source.id)),
            to_arrow(x_BD),
        ],
        names=["id", "shard", "vector"],
    )
    fragments = (writer or table).write_fragments([batch])
    table.commit([LeaseResult((ShardCount(source, len(x_BD), 0),), fragments, (), len(x_BD))], run="test")
    return table.refresh()


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., VectorTable]:
    """Make a table of the given shards of vectors."""

    def make(*shards: np.ndarray, name: str = "t", ladder: tuple[int, ...] = LADDER) -> VectorTable:
        space = Space(encoder="test", revision="1", ladder=Ladder(dims=ladder))
        table = VectorTable.create(str(tmp_path / f"{name}.lance"), space, pa.schema([]))
        for number, x in enumerate(shards):
            table = land(table, x, f"{name}{number}")
        return table

    return make
