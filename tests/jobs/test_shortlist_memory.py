"""A table many times larger than the budget, searched by a real worker whose peak is measured."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.actors import ActorPool
from cluster.placement import PoolSize
from pipelines.shortlist.lists import commit_lists, search_task
from pipelines.shortlist.planning import plan_lists
from pipelines.shortlist.run import CallWorker
from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import unit
from schemas.columns import Ladder, Space
from schemas.config import ShortlistConfig
from schemas.records import LeaseResult, Shard, ShardCount

WIDTH, BLOCK, BLOCKS = 768, 50_000, 28  # 2 GiB of half-precision vectors
BUDGET, QUERIES = 576 << 20, 200


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def write(uri: Path, rows: int, blocks: int) -> VectorTable:
    rng = np.random.default_rng(blocks)
    x = unit(rng.standard_normal((rows, WIDTH)).astype(np.float32)).astype(np.float16)
    table = create_table(
        str(uri), Space(encoder="test", revision="1", ladder=Ladder(dims=(64, 256, WIDTH))), pa.schema([])
    )
    shard = Shard(uri.name, rows * blocks, "1", "parquet")
    batches = (
        pa.RecordBatch.from_arrays(
            [
                pa.array([f"{block:03d}-{i:05d}" for i in range(rows)]),
                pa.array(np.full(rows, shard.id)),
                to_arrow(np.roll(x, block, axis=1)),
            ],
            names=["id", "shard", "vector"],
        )
        for block in range(blocks)
    )
    fragments = write_fragments(table, batches)
    commit_leases(table, [LeaseResult((ShardCount(shard, rows * blocks, 0),), fragments, (), rows)], run="test")
    return table.refresh()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("local_ray")
def test_a_2_gib_table_is_searched_within_576_mib(tmp_path):
    table = write(tmp_path / "t.lance", BLOCK, BLOCKS)
    assert table.dataset.count_rows() * WIDTH * 2 > 2 << 30
    queries = write(tmp_path / "q.lance", QUERIES, 1)
    config = ShortlistConfig(table=table.uri, lists={"queries": queries.uri, "k": 20, "memory_bytes": BUDGET})
    plan = plan_lists(config)
    assert plan is not None
    calls = [partial(search_task, plan.spec, plan.uri, plan.config, task) for task in plan.todo()]
    with ActorPool(partial(CallWorker, 2), PoolSize(actors=1, cpus=1, gpus=0, threads=2, in_flight=1)) as actors:
        for outcome in filter(None, actors.run(calls)):
            if outcome.error is not None:
                raise outcome.error
        (peak,) = [outcome.result for outcome in actors.run([peak_bytes]) if outcome is not None]
    lists = commit_lists(plan)
    assert lists.count_rows() == QUERIES * 3 * 20
    print(f"peak {peak >> 20} MiB", len(plan.tasks))
    assert peak < BUDGET
