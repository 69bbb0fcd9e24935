"""Encode stored samples again and compare: whether the encoder of tonight is the one that made the vectors.

Owns no bound; see `audit`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.embedding.column_plan import run_columns
from pipelines.embedding.embedder import WindowEncoder
from pipelines.embedding.feeder import Feeder, Window
from pipelines.storage.prefetch import Prefetcher
from pipelines.tables.rows import sql_texts
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import unit
from schemas.columns import VECTOR
from schemas.config import EmbedConfig
from schemas.records import Lease, Shard


def encode_again(
    table: VectorTable, config: EmbedConfig, shards: Sequence[Shard], rows: int
) -> list[tuple[str, float]]:
    """Encode the first samples of each shard again, and return their ids with the cosine to what is stored.

    Args:
        table: Holds the shards.
        config: The embed job.
        shards: Each is read from its beginning.
        rows: Samples in all.
    """
    encoder = config.encoder.model_copy(update={"dtype": table.space.dtype})
    config = config.model_copy(update={"encoder": encoder})
    feeder, window_encoder = Feeder(config, run_columns(table, config), 1), WindowEncoder(config, 1)
    found = list[tuple[str, float]]()
    for shard in shards:
        windows = Prefetcher(feeder.feed(Lease((shard,))), 1, "canary")
        try:
            window = next(iter(windows), None)
        finally:
            windows.close()
        if window is not None and window.rows:
            found += _compare(table, shard, window, window_encoder, -(-rows // len(shards)))
    return found


def _compare(
    table: VectorTable, shard: Shard, window: Window, encoder: WindowEncoder, most: int
) -> list[tuple[str, float]]:
    vectors_ND, is_good_N, _ = encoder.encode(window)
    names = pa.Table.from_batches(window.rows)["id"].to_pylist()
    if table.rotation is not None:
        vectors_ND = table.rotation.apply(vectors_ND)
    again = {name: vectors_ND[row] for row, name in enumerate(names) if is_good_N[row]}
    wanted = list(again)[:most]
    stored = table.dataset.scanner(
        columns=["id", VECTOR], filter=f"shard = {shard.id} AND id IN ({sql_texts(wanted)})"
    ).to_table()
    stored_KD = unit(to_numpy(stored[VECTOR]).astype(np.float32))
    pairs = zip(stored["id"].to_pylist(), stored_KD, strict=True)
    return [(name, _cosine(again[name], vector_D)) for name, vector_D in pairs]


def _cosine(a_D: npt.NDArray[np.float32], b_D: npt.NDArray[np.float32]) -> float:
    return float(unit(a_D) @ b_D)
