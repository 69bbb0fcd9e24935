"""Tables of real texts with real vectors, which words can search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lance
import pyarrow as pa

from pipelines.encoders import load_encoder, load_preparer, make_space
from pipelines.tables.create import create_table
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from schemas.config import EncoderConfig, LimitsConfig

ENCODER = EncoderConfig(name="wordllama", device="cpu")


def wordllama_table(path: Path, texts: Sequence[str]) -> VectorTable:
    """Make a table with the ids `s0`, `s1`, … and the kept column `text`."""
    preparer, encoder = load_preparer(ENCODER, LimitsConfig()), load_encoder(ENCODER)
    x_BD = encoder.encode(preparer.prepare(texts))  # type: ignore[arg-type]
    table = create_table(str(path), make_space(ENCODER), pa.schema([pa.field("text", pa.string())]))
    ids = [f"s{number}" for number in range(len(texts))]
    rows = {"id": ids, "shard": [0] * len(texts), "text": list(texts), "vector": to_arrow(x_BD)}
    lance.write_dataset(pa.table(rows).cast(table.dataset.schema), table.uri, mode="append")
    return table.refresh()
