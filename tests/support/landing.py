"""Making and landing leases of known vectors, without an encoder; also from several processes at once."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.tables.table import CommitResult, VectorTable
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import unit
from schemas.columns import Ladder, Space
from schemas.records import LeaseResult, Reject, Shard, ShardCount

LADDER = (8, 16, 32)
SPACE = Space(encoder="wordllama", revision="test", ladder=Ladder(dims=LADDER))
KEPT = pa.schema([pa.field("n", pa.int64()), pa.field("half", pa.string())])


def new_table(folder: Path, name: str = "t", space: Space = SPACE) -> VectorTable:
    return VectorTable.create(str(folder / f"{name}.lance"), space, KEPT)


def a_shard(name: str, etag: str = "1") -> Shard:
    return Shard(f"/src/{name}.jsonl", 100, etag, "jsonl")


def vectors_of(shard: Shard, rows: int) -> npt.NDArray[np.float16]:
    """The unit rows of a shard: a function of its identity."""
    x = np.random.default_rng(shard.id).standard_normal((rows, LADDER[-1])).astype(np.float32)
    return unit(x).astype(np.float16)


def ids_of(shard: Shard, rows: int) -> list[str]:
    return [f"{shard.uri}-{position}" for position in range(rows)]


def embed(table: VectorTable, *shards: Shard, rows: int = 5, rejects: int = 0) -> LeaseResult:
    """Do what an actor does with a lease: write fragments that nobody sees yet."""
    batches = [
        pa.RecordBatch.from_arrays(
            [
                pa.array(ids_of(shard, rows)),
                pa.array(np.full(rows, shard.id)),
                pa.array(np.arange(rows)),
                pa.array([("even", "odd")[i % 2] for i in range(rows)]),
                to_arrow(vectors_of(shard, rows)),
            ],
            names=["id", "shard", "n", "half", "vector"],
        )
        for shard in shards
        if rows
    ]
    return LeaseResult(
        tuple(ShardCount(shard, rows, rejects) for shard in shards),
        table.write_fragments(batches),
        tuple(
            Reject(s.id, rows + i, f"{s.uri}-{rows + i}", "empty_text", f"{s.etag}: nothing but white space")
            for s in shards
            for i in range(rejects)
        ),
        rows,
    )


def land(table: VectorTable, *shards: Shard, rows: int = 5, rejects: int = 0) -> CommitResult:
    return table.commit([embed(table, *shards, rows=rows, rejects=rejects)], "test")


def race(drivers: int, drive: Callable[..., int], *args: object) -> list[int]:
    """Call `drive(number, *args)` in several processes at once, that import everything before any begins."""
    with ProcessPoolExecutor(drivers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_warm_up, range(drivers)))
        return [call.result() for call in [pool.submit(drive, number, *args) for number in range(drivers)]]


def _warm_up(number: int) -> None:
    threading.Event().wait(0.3)  # so that each process takes one


def drive(number: int, uri: str, shards: Sequence[Shard], rejects: int) -> int:
    """Land all of these shards, a few a commit, in an order of one's own; return how many the commits brought."""
    table = VectorTable.open(uri)
    order = np.random.default_rng(number).permutation(len(shards))
    landed = 0
    todo = [shards[i] for i in order]
    while todo:
        batch, todo = todo[:3], todo[3:]
        landing = table.commit([embed(table, *batch, rejects=rejects)], f"driver{number}")
        landed += landing.shards
        todo += landing.redo
    return landed


def changed(shard: Shard) -> Shard:
    return replace(shard, etag=shard.etag + "'")


def contents(table: VectorTable) -> dict[str, tuple[int, bytes]]:
    """Shard and vector of every row by id; an id that is there twice is an error."""
    rows = table.refresh().dataset.to_table()
    found = dict(
        zip(
            rows["id"].to_pylist(),
            zip(rows["shard"].to_pylist(), [np.float16(v).tobytes() for v in rows["vector"].to_pylist()], strict=True),
            strict=True,
        )
    )
    assert len(found) == rows.num_rows
    return found


def expected(*shards: Shard, rows: int = 5) -> dict[str, tuple[int, bytes]]:
    return {
        key: (shard.id, vector.tobytes())
        for shard in shards
        for key, vector in zip(ids_of(shard, rows), vectors_of(shard, rows), strict=True)
    }
