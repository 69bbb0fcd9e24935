"""A small table of clustered vectors with a prefix column, for tests of funnels."""

from __future__ import annotations

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.funnel import Goal
from pipelines.tables.create import create_table
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import cut, unit
from schemas.columns import Ladder, Space, prefix_column, vector_field

WIDTH, ROWS, PREFIX = 64, 6_000, 16
SPACE = Space(encoder="precomputed", revision="1", ladder=Ladder(dims=(PREFIX, 32, WIDTH)))
GOAL = Goal(recall=0.9, queries=250)


def vectors(rows: int, seed: int = 0) -> npt.NDArray[np.float16]:
    """Rows around 40 centres, with the falling spectrum that Matryoshka training leaves."""
    centres = np.random.default_rng(99).standard_normal((40, WIDTH))
    rng = np.random.default_rng(seed)
    spread = np.arange(1, WIDTH + 1) ** -0.5
    x = (centres[rng.integers(0, 40, rows)] + rng.standard_normal((rows, WIDTH))) * spread
    return unit(x.astype(np.float32)).astype(np.float16)


def query(seed: int = 7) -> npt.NDArray[np.float32]:
    return unit(vectors(1, seed)[0].astype(np.float32))


def batch(x_BD: npt.NDArray[np.float16], first: int, schema: pa.Schema) -> pa.Table:
    """Rows with ids `r<number>`, numbered from `first`."""
    numbers = np.arange(first, first + len(x_BD))
    columns = {
        "id": [f"r{n}" for n in numbers],
        "shard": numbers % 7,
        "parity": numbers % 2,
        "vector": to_arrow(x_BD),
        prefix_column(PREFIX): to_arrow(cut(x_BD, PREFIX)),
    }
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def write_table(uri: str) -> VectorTable:
    """Write `vectors(ROWS)` as a table with a prefix column."""
    table = create_table(uri, SPACE, pa.schema([pa.field("parity", pa.int64())]))
    x_ND = vectors(ROWS)
    dataset = lance.write_dataset(batch(x_ND, 0, table.dataset.schema), table.uri, mode="append")
    schema = pa.schema([vector_field(PREFIX, prefix_column(PREFIX))])
    dataset.add_columns(pa.table([to_arrow(cut(x_ND, PREFIX))], schema=schema).to_reader())
    return table.refresh()


def append(table: VectorTable, x_BD: npt.NDArray[np.float16], first: int = ROWS) -> None:
    lance.write_dataset(batch(x_BD, first, table.dataset.schema), table.uri, mode="append")


def ids(found: pa.Table) -> list[str]:
    names: list[str] = found["id"].to_pylist()
    return names


def true_scores(found: pa.Table, exact: pa.Table) -> list[float]:
    """The scores of an exact search over the whole table, for the rows that were found."""
    scores = dict(zip(ids(exact), exact["score"].to_pylist(), strict=True))
    return [scores[name] for name in ids(found)]


def recall_at_10(rows_BK: npt.NDArray[np.int64], exact_BK: npt.NDArray[np.int64]) -> float:
    pairs = zip(rows_BK[:, :10].tolist(), exact_BK[:, :10].tolist(), strict=True)
    return float(np.mean([len(set(found) & set(exact)) / 10 for found, exact in pairs]))
