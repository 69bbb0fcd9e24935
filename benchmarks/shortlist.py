"""Exact shortlists and prefix indexes, beside the matrix product alone, FAISS and Lance, on the same vectors and cores.

    python -m benchmarks.shortlist                        # some ten minutes on 2 cores
    python -m benchmarks.shortlist --rows 50000 --queries 1024 --rounds 1

`product` is `torch.mm` of all rows with all queries, in blocks of the same shape, its scores thrown away: what the
machine can do at most. The other rows find the K best of every query: `shortlist` is `ExactSearch`, `faiss` is
`IndexFlatIP`, `lance` is `nearest` without an index, one query after another, timed on 16 and scaled up. Systems take
turns; the median counts. Vectors are in memory for all but `lance` and `shortlist, from its table`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.data import spectrum_vectors, texts, wordllama_vectors
from benchmarks.encode import take_turns
from cluster.actors import ActorPool
from cluster.placement import PoolSize
from cluster.session import connect
from pipelines.shortlist.exact import BLOCK_ROWS, ExactSearch
from pipelines.shortlist.run import CallWorker
from pipelines.shortlist.scan import RowSelection, chunk_rows, read_chunks
from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.indexes import build_segment, choose_index, plan_index, publish_index
from pipelines.tables.ledger import commit_leases
from pipelines.tables.prefixes import add_prefixes
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import unit
from schemas.columns import Ladder, Space
from schemas.config import ExactConfig, PrefixIndexConfig
from schemas.records import LeaseResult, Shard, ShardCount

CHUNK_ROWS = 1 << 16
LANCE_QUERIES = 16
INDEX_DIM = 64

Halves = npt.NDArray[np.float16]
Singles = npt.NDArray[np.float32]


def write_table(folder: Path, name: str, x_ND: Halves, dims: tuple[int, ...], fragments: int) -> VectorTable:
    """Write vectors as a table of so many fragments."""
    space = Space(encoder="benchmark", revision="1", ladder=Ladder(dims=dims))
    table = create_table(str(folder / f"{name}.lance"), space, pa.schema([]))
    for number, part_ND in enumerate(np.array_split(x_ND, fragments)):
        shard = Shard(f"{name}{number}", len(part_ND), "1", "parquet")
        ids = pa.array([f"{number:03d}-{row:07d}" for row in range(len(part_ND))])
        columns = [ids, pa.array(np.full(len(part_ND), shard.id)), to_arrow(part_ND)]
        batch = pa.RecordBatch.from_arrays(columns, names=["id", "shard", "vector"])
        counts = (ShardCount(shard, len(part_ND), 0),)
        commit_leases(table, [LeaseResult(counts, write_fragments(table, [batch]), (), 0)], run="benchmark")
    return table.refresh()


def product(x_ND: Halves, q_QD: Singles, dtype: torch.dtype) -> None:
    """Multiply all rows with all queries, block by block, conversion left out."""
    block_BD = torch.from_numpy(x_ND[:BLOCK_ROWS]).to(dtype)
    q_DQ = torch.from_numpy(q_QD).to(dtype).T.contiguous()
    scores_BQ = torch.empty(len(block_BD), len(q_QD), dtype=dtype)
    for _ in range(0, len(x_ND), BLOCK_ROWS):
        torch.mm(block_BD, q_DQ, out=scores_BQ)


def shortlist(x_ND: Halves, ids: pa.Array, q_QD: Singles, dims: tuple[int, ...], k: int, precision: str) -> None:
    """Find the K best in memory."""
    search = ExactSearch(q_QD, dims, k, ExactConfig(precision=precision))
    for start in range(0, len(x_ND), CHUNK_ROWS):
        search.add(ids[start : start + CHUNK_ROWS], x_ND[start : start + CHUNK_ROWS])


def lance_nearest(table: VectorTable, q_QD: Singles, k: int) -> None:
    """Let Lance scan for a few queries, one after another."""
    for query_D in q_QD[:LANCE_QUERIES]:
        nearest = {"column": "vector", "q": query_D, "k": k, "metric": "cosine", "use_index": False}
        table.dataset.to_table(columns=["id"], nearest=nearest)


def search_table(table: VectorTable, q_QD: Singles, k: int) -> object:
    """Search at full width, with the vectors read from their table."""
    width = q_QD.shape[1]
    search = ExactSearch(q_QD, (width,), k)
    rows = chunk_rows(width, len(q_QD), (width,), k, memory_bytes=4 << 30)
    for ids, vectors_ND in read_chunks(table.dataset, RowSelection(), rows):
        search.add(ids, vectors_ND)
    return search.best


def exact_table(name: str, table: VectorTable, x_ND: Halves, q_QD: Singles, k: int, rounds: int) -> Table:
    """Time exact search at full width."""
    width = x_ND.shape[1]
    ids = pa.array([f"{row:08d}" for row in range(len(x_ND))])
    index = faiss.IndexFlatIP(width)
    index.add(x_ND.astype(np.float32))
    systems: dict[str, Callable[[], object]] = {}
    for precision in ("float32", "bfloat16"):
        systems[f"product, {precision}"] = partial(product, x_ND, q_QD, getattr(torch, precision))
        systems[f"shortlist, {precision}"] = partial(shortlist, x_ND, ids, q_QD, (width,), k, precision)
    systems["shortlist, from its table"] = partial(search_table, table, q_QD, k)
    systems["faiss"] = partial(index.search, q_QD, k)
    systems["lance"] = partial(lance_nearest, table, q_QD, k)
    seconds = take_turns(systems, rounds)
    seconds["lance"] *= len(q_QD) / LANCE_QUERIES
    grid = Table(f"{name}, k = {k}", "s", "µs/query", "of the product", "times as fast as faiss", "as lance")
    for system, taken in seconds.items():
        share = ""
        if system.startswith("shortlist, ") and system.replace("shortlist", "product") in seconds:
            share = f"{seconds[system.replace('shortlist', 'product')] / taken:.2f}"
        ratios = [f"{seconds[peer] / taken:.1f}x" for peer in ("faiss", "lance")]
        grid.add_row(system, f"{taken:.2f}", f"{taken / len(q_QD) * 1e6:,.0f}", share, *ratios)
    return grid


def dims_table(x_ND: Halves, q_QD: Singles, dims: tuple[int, ...], k: int, rounds: int) -> Table:
    """Time all dims in one pass beside one pass for each."""
    ids = pa.array([f"{row:08d}" for row in range(len(x_ND))])

    def apart() -> None:
        for dim in dims:
            shortlist(x_ND, ids, q_QD, (dim,), k, "auto")

    together = partial(shortlist, x_ND, ids, q_QD, dims, k, "auto")
    seconds = take_turns({"one pass for all dims": together, "one pass for each dim": apart}, rounds)
    grid = Table(f"dims {dims}, k = {k}", "s")
    for system, taken in seconds.items():
        grid.add_row(system, f"{taken:.2f}")
    return grid


def index_table(table: VectorTable, rounds: int) -> Table:
    """Time building the index of a prefix: by actors in segments, and by Lance alone."""
    table = add_prefixes(table, [INDEX_DIM])
    config = PrefixIndexConfig(type="IVF_FLAT")
    chosen = choose_index(table.dataset.count_rows(), config)
    assert chosen is not None
    kind, partitions = chosen
    actors = os.cpu_count() or 1

    def alone() -> None:
        dataset = lance.dataset(table.uri)
        dataset.create_index(
            f"vector_{INDEX_DIM}", kind, name="alone", metric="cosine", num_partitions=partitions, replace=True
        )
        dataset.drop_index("alone")

    with connect(), ActorPool(partial(CallWorker, 1), PoolSize(actors, 1, 0, 1, 1)) as pool:

        def in_segments() -> None:
            plan = plan_index(table.refresh(), INDEX_DIM, config)
            assert plan is not None
            groups = [plan.fragments[start::actors] for start in range(actors)]
            calls = [partial(build_segment, table, plan, group) for group in groups]
            outcomes = [outcome for outcome in pool.run(calls, tick_s=0.01) if outcome is not None]
            done = publish_index(table, plan, [outcome.result for outcome in outcomes])
            done.dataset.drop_index(f"vector_{INDEX_DIM}_idx")

        seconds = take_turns({f"{actors} actors, in segments": in_segments, "lance, one process": alone}, rounds)
    grid = Table(f"{kind}, {partitions} partitions, {table.dataset.count_rows()} x {INDEX_DIM}", "s")
    for system, taken in seconds.items():
        grid.add_row(system, f"{taken:.2f}")
    return grid


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    console = Console(width=160)
    real_ND = wordllama_vectors([text for _, text in texts()])
    real_ND = real_ND[np.random.default_rng(0).permutation(len(real_ND))[: args.rows + args.queries]]
    drawn_ND = spectrum_vectors(args.rows + args.queries, 768, real_ND)
    with tempfile.TemporaryDirectory() as folder:
        for name, all_ND, dims in (
            ("spectrum", drawn_ND, (48, 96, 192, 384, 768)),
            ("wordllama", real_ND, (64, 128, 256)),
        ):
            x_ND, q_QD = all_ND[args.queries :].astype(np.float16), unit(all_ND[: args.queries].astype(np.float32))
            ladder = (INDEX_DIM, *dims) if INDEX_DIM not in dims else dims
            table = write_table(Path(folder), name, x_ND, tuple(sorted(ladder)), 8)
            title = f"{name} {x_ND.shape[0]} x {x_ND.shape[1]}, {len(q_QD)} queries"
            for k in args.k:
                console.print(exact_table(title, table, x_ND, q_QD, k, args.rounds))
            console.print(dims_table(x_ND, q_QD, dims, args.k[0], args.rounds))
            if name == "spectrum":
                console.print(index_table(table, args.rounds))


if __name__ == "__main__":
    main()
