"""Small vector tables whose contents the tests know; made without an encoder, also from several processes at once."""

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
import pytest

from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.ledger import CommitResult, commit_leases
from pipelines.tables.rotate import check_rotatable, commit_rotation, moments_of, rotate_fragments
from pipelines.tables.rotations import save_rotation
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.matryoshka import unit
from schemas.columns import VECTOR, Ladder, Space
from schemas.records import LeaseResult, Reject, Shard, ShardCount

LADDER = (8, 16, 32)
SPACE = Space(encoder="wordllama", revision="test", ladder=Ladder(dims=LADDER))
KEPT = pa.schema([pa.field("n", pa.int64()), pa.field("half", pa.string())])


# Tables of shards: the rows are a function of the shard's identity.


def new_table(folder: Path, name: str = "t", space: Space = SPACE) -> VectorTable:
    """Create an empty table with the kept columns `n` and `half`."""
    return create_table(str(folder / f"{name}.lance"), space, KEPT)


def a_shard(name: str, etag: str = "1") -> Shard:
    return Shard(f"/src/{name}.jsonl", 100, etag, "jsonl")


def changed(shard: Shard) -> Shard:
    """The same file with another content."""
    return replace(shard, etag=shard.etag + "'")


def vectors_of(shard: Shard, rows: int) -> npt.NDArray[np.float16]:
    """The unit rows of a shard."""
    x = np.random.default_rng(shard.id).standard_normal((rows, LADDER[-1])).astype(np.float32)
    return unit(x).astype(np.float16)


def ids_of(shard: Shard, rows: int) -> list[str]:
    return [f"{shard.uri}-{position}" for position in range(rows)]


def write_lease(table: VectorTable, *shards: Shard, rows: int = 5, rejects: int = 0) -> LeaseResult:
    """Do what an actor does with a lease: write fragments that no reader sees yet."""
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
        write_fragments(table, batches),
        tuple(
            Reject(s.id, rows + i, f"{s.uri}-{rows + i}", "empty_text", f"{s.etag}: nothing but white space")
            for s in shards
            for i in range(rejects)
        ),
        rows,
    )


def commit_shards(table: VectorTable, *shards: Shard, rows: int = 5, rejects: int = 0) -> CommitResult:
    """Write a lease and commit it."""
    return commit_leases(table, [write_lease(table, *shards, rows=rows, rejects=rejects)], "test")


def contents(table: VectorTable) -> dict[str, tuple[int, bytes]]:
    """Shard and vector of every row by id, at the newest version; an id that is there twice is an error."""
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
    """What `contents` must find of some shards."""
    return {
        key: (shard.id, vector.tobytes())
        for shard in shards
        for key, vector in zip(ids_of(shard, rows), vectors_of(shard, rows), strict=True)
    }


def race(drivers: int, drive: Callable[..., int], *args: object) -> list[int]:
    """Call `drive(number, *args)` in several processes at once, that import everything before any begins."""
    with ProcessPoolExecutor(drivers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_warm_up, range(drivers)))
        return [call.result() for call in [pool.submit(drive, number, *args) for number in range(drivers)]]


def _warm_up(number: int) -> None:
    threading.Event().wait(0.3)  # so that each process takes one


def drive(number: int, uri: str, shards: Sequence[Shard], rejects: int) -> int:
    """Commit all of these shards, a few at a time, in an order of its own; return how many its commits added."""
    table = VectorTable.open(uri)
    todo = [shards[i] for i in np.random.default_rng(number).permutation(len(shards))]
    added = 0
    while todo:
        batch, todo = todo[:3], todo[3:]
        done = commit_leases(table, [write_lease(table, *batch, rejects=rejects)], f"driver{number}")
        added += done.shards
        todo += done.redo
    return added


# Tables of given vectors.


def vectors(rows: int, seed: int, width: int = LADDER[-1]) -> npt.NDArray[np.float16]:
    """Unit rows in half precision whose dims matter less and less, in loose clusters."""
    rng = np.random.default_rng(seed)
    spectrum = (1.0 + np.arange(width)) ** -0.5
    centres = np.random.default_rng(0).standard_normal((20, width))
    x = (centres[rng.integers(0, 20, rows)] + 0.7 * rng.standard_normal((rows, width))) * spectrum
    return unit(x.astype(np.float32)).astype(np.float16)


def add_vectors(
    table: VectorTable, x_BD: npt.NDArray[np.floating], name: str, *, writer: VectorTable | None = None
) -> VectorTable:
    """Commit rows as one shard, with ids `<name>-<position>`; `writer` is a handle that may be older than the table."""
    source = Shard(name, len(x_BD), "1", "parquet")
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([f"{name}-{i:05d}" for i in range(len(x_BD))]),
            pa.array(np.full(len(x_BD), source.id)),
            to_arrow(x_BD),
        ],
        names=["id", "shard", "vector"],
    )
    fragments = write_fragments(writer or table, [batch])
    commit_leases(table, [LeaseResult((ShardCount(source, len(x_BD), 0),), fragments, (), len(x_BD))], run="test")
    return table.refresh()


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., VectorTable]:
    """Make a table of the given shards of vectors."""

    def make(*shards: npt.NDArray[np.floating], name: str = "t", ladder: tuple[int, ...] = LADDER) -> VectorTable:
        space = Space(encoder="test", revision="1", ladder=Ladder(dims=ladder))
        table = create_table(str(tmp_path / f"{name}.lance"), space, pa.schema([]))
        for number, x in enumerate(shards):
            table = add_vectors(table, x, f"{name}{number}")
        return table

    return make


# Tables that a rotation helps.


def off_axis(rows: int, width: int = 24, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit rows whose variance lies in a few directions that are not the axes, off the origin."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(7).normal(size=(width, width)))[0]
    x_BD = rng.normal(size=(rows, width)) * (0.6 ** np.arange(width)) @ basis + 0.1
    return (x_BD / np.linalg.norm(x_BD, axis=1, keepdims=True)).astype(np.float32)


def off_axis_table(folder: Path, shards: int = 3, rows: int = 80) -> VectorTable:
    """A table of `off_axis` vectors in a space that is not Matryoshka-trained, with the kept column `title`."""
    space = Space(encoder="all-MiniLM-L6-v2", revision="test", ladder=Ladder(dims=(24,)))
    table = create_table(str(folder / "t.lance"), space, pa.schema([pa.field("title", pa.string())]))
    for seed in range(shards):
        commit_leases(table, [off_axis_lease(table, seed, rows)], f"run{seed}")
    return table.refresh()


def off_axis_lease(table: VectorTable, seed: int, rows: int) -> LeaseResult:
    """Write one more shard for an `off_axis_table`."""
    shard = Shard(f"/shard-{seed}", rows, "x", "parquet")
    ids = [f"{seed}-{i}" for i in range(rows)]
    columns = [pa.array(ids), pa.array([shard.id] * rows), pa.array(ids), to_arrow(off_axis(rows, seed=seed))]
    batch = pa.RecordBatch.from_arrays(columns, schema=table.dataset.schema)
    return LeaseResult((ShardCount(shard, rows, 0),), write_fragments(table, [batch]), (), rows)


def stored_vectors(table: VectorTable) -> npt.NDArray[np.float32]:
    """The full vectors of a handle's version, in the table's order."""
    return to_numpy(table.dataset.to_table(columns=[VECTOR])[VECTOR]).astype(np.float32)


def rotate_table(table: VectorTable, *, even_if_trained: bool = False) -> VectorTable:
    """Fit, rotate and commit in this process."""
    check_rotatable(table, even_if_trained=even_if_trained)
    ids = [fragment.fragment_id for fragment in table.dataset.get_fragments()]
    rotation = moments_of(table, ids).rotation()
    save_rotation(rotation, table.uri, table.storage)
    return commit_rotation(table, rotation, rotate_fragments(table, ids, rotation.fingerprint))
