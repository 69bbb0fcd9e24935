"""Tables of labelled points, and systems of them for `mlake evaluate`."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pipelines.evaluation.alignment import align
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.prepare import prepare
from pipelines.evaluation.results import Results
from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import cut, unit
from schemas.columns import Ladder, Space
from schemas.config import EmbedConfig, EvaluateConfig
from schemas.records import LeaseResult, Shard, ShardCount

DIMS, CLASSES = (4, 8, 16), 4


def write_table(
    path: Path, x_ND: np.ndarray, labels_N: np.ndarray, *, dims: tuple[int, ...] = DIMS, encoder: str = "wordllama"
) -> VectorTable:
    """Create a table of labelled vectors, in an order that is not that of their ids."""
    space = Space(encoder=encoder, revision="test", ladder=Ladder(dims=dims))
    table = create_table(str(path), space, pa.schema([pa.field("label", pa.string())]))
    shard, order = Shard("/made.jsonl", 1, "1", "jsonl"), np.random.default_rng(len(x_ND)).permutation(len(x_ND))
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([f"{row:05d}" for row in order]),
            pa.array(np.full(len(x_ND), shard.id)),
            pa.array([f"class {labels_N[row]}" for row in order]),
            to_arrow(x_ND[order]),
        ],
        names=["id", "shard", "label", "vector"],
    )
    fragments = write_fragments(table, [batch])
    commit_leases(table, [LeaseResult((ShardCount(shard, len(x_ND), 0),), fragments, (), 0)], "test")
    return table.refresh()


def clouds(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit points around four centres, whose first dims carry most, and their classes."""
    labels_N = np.arange(rows) % CLASSES
    centres = np.random.default_rng(0).standard_normal((CLASSES, 16)) * np.geomspace(1, 0.2, 16)
    noise = np.random.default_rng(seed).standard_normal((rows, 16)) * 0.55
    return unit((centres[labels_N] + noise).astype(np.float32)), labels_N


def write_systems(folder: Path, rows: int = 600, queries: int = 200) -> None:
    """Write the tables of `systems`: one nested space, and a table of its own per dim, of the same rows."""
    for name, count, seed in (("train", rows, 1), ("val", queries, 2)):
        x_ND, labels_N = clouds(count, seed)
        write_table(folder / f"mrl-{name}.lance", x_ND, labels_N)
        for dim in (4, 8):
            write_table(folder / f"ff-{dim}-{name}.lance", cut(x_ND[:, ::-1], dim), labels_N, dims=(dim,))


def systems(folder: Path) -> str:
    """Return the two systems as TOML."""
    return f"""
[[systems]]
name = "MRL"
database = "{folder}/mrl-train.lance"
queries = "{folder}/mrl-val.lance"
[[systems]]
name = "FF"
database = "{folder}/ff-{{dim}}-train.lance"
queries = "{folder}/ff-{{dim}}-val.lance"
dims = [4, 8]
"""


def evaluate_systems(folder: Path) -> Results:
    """Write both systems and measure everything that labels allow."""
    write_systems(folder)
    config = EvaluateConfig.model_validate(
        tomllib.loads(systems(folder))
        | {
            "folder": str(folder / "out"),
            "measure": {"draws": 100, "shots": [2], "imbalance": 30, "repeats": 2, "recall": [3]},
            "cascade": {"held_out": 0.3},
            "retrieval": {"keep": 50, "keeps": [60, 30, 10]},
        }
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many tiny fits: threads that wait for each other are slow on a busy machine
    try:
        return evaluate(align(config, prepare(config, refuse_to_embed)))
    finally:
        torch.set_num_threads(threads)


def refuse_to_embed(config: EmbedConfig) -> None:
    """Fail: systems of tables have no encoder."""
    raise AssertionError(f"{config.table} is to be embedded")
