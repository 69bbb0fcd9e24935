"""Tables with labels and words for heads to learn from, and small configs of heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.encoders import load_encoder, load_preparer, make_space
from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from schemas.config import EncoderConfig, LimitsConfig
from schemas.config.training import TrainConfig
from schemas.records import LeaseResult, Shard, ShardCount
from tests.support.tiny_training import COLOURS, picture

WORDS = EncoderConfig(name="wordllama")
PICTURES = EncoderConfig(name="efficientnet-lite0")
KEPT = pa.schema([pa.field("label", pa.string()), pa.field("words", pa.string())])


def encode(config: EncoderConfig, inputs: Sequence[Any]) -> npt.NDArray[np.float32]:
    """Encode inputs with an encoder: (N, D) float32."""
    return load_encoder(config).encode(load_preparer(config, LimitsConfig()).prepare(inputs))  # type: ignore[arg-type]


def make_head_table(
    uri: Path, config: EncoderConfig, rows: Sequence[tuple[Any, str, str]], shards: int = 2
) -> VectorTable:
    """Make a table of (input, label, words) as `mlake embed` does."""
    table = create_table(str(uri), make_space(config), KEPT)
    vectors_ND = encode(config, [row[0] for row in rows])
    for number in range(shards):
        shard, places = Shard(f"/src/{number}.tar", 1, "1", "webdataset"), range(number, len(rows), shards)
        columns = [
            pa.array([f"{place}" for place in places]),
            pa.array([shard.id] * len(places)),
            pa.array([rows[place][1] for place in places]),
            pa.array([rows[place][2] for place in places]),
            to_arrow(vectors_ND[places]),
        ]
        batch = pa.RecordBatch.from_arrays(columns, names=["id", "shard", "label", "words", "vector"])
        result = LeaseResult((ShardCount(shard, len(places), 0),), write_fragments(table, [batch]), (), len(places))
        commit_leases(table, [result], "test")
    return table.refresh()


def square_rows() -> list[tuple[bytes, str, str]]:
    """Return 24 coloured squares with their colour and a caption."""
    return [(picture(colour, i), colour, f"a {colour} square") for i, colour in enumerate([*COLOURS] * 8)]


def head_config(kind: str, table: VectorTable, out: Path, **blocks: Any) -> TrainConfig:
    """Return the config of a head that trains in about a second; `blocks` changes its blocks."""
    run = {"epochs": 10, "batch": 64, "precision": "float32", "device": "cpu", "tensorboard": False}
    return TrainConfig.model_validate(
        {
            "kind": kind,
            "out": str(out),
            "model": blocks.get("model", {}),
            "data": {"table": table.uri, "held_out": 0.2} | blocks.get("data", {}),
            "loss": {"dims": [4, 8, 16]} | blocks.get("loss", {}),
            "optimiser": {"name": "adamw", "lr": 0.01},
            "run": run | blocks.get("run", {}),
        }
    )
