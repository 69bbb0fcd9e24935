"""Apply a head to a table: transform its vectors into another table, without encoding a sample again.

The result equals what `mlake embed` makes of the same shards with the head as its encoder, up to the rounding of the
stored half-precision vectors. Both write the same ledger, so either continues where the other stopped.

Shapes: B rows, D width of the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pipelines.encoders import make_space
from pipelines.encoders.checkpoints import Layer, apply_layers, read_head, read_layers, read_split
from pipelines.encoders.of_space import config_of
from pipelines.encoders.registry import describe_tower
from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.ledger import commit_leases, done_shards, records_of
from pipelines.tables.rows import scan_vectors
from pipelines.tables.runs import RunRecord
from pipelines.tables.splits import record_split
from pipelines.tables.table import VectorTable
from pipelines.training.head_data import table_modality
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import are_unit
from schemas.columns import table_schema
from schemas.config import EncoderConfig
from schemas.errors import EncoderError, SpaceMismatch, TableNotFound
from schemas.records import LeaseResult, Shard, ShardCount

_ROWS_AT_ONCE = 4096


def apply_head(source: VectorTable, head: Path, uri: str) -> int:
    """Apply a head to a table's vectors and add them to another table, which is created if it is missing.

    Args:
        source: A table of the encoder that the head was trained on, rotated or not.
        head: The head's folder.
        uri: Address of the other table; shards that it holds are skipped.

    Returns:
        Rows added.

    Raises:
        SpaceMismatch: The head was trained on another encoder, or the other table is of another space.
        EncoderError: The head gives a row no direction.
    """
    own = config_of(source.space, source.trust)
    modality, towers = table_modality(source), read_head(head).towers
    if modality not in towers or towers[modality].space != describe_tower(own).space:
        raise SpaceMismatch(
            f"{source.uri} holds vectors of {source.space.encoder_name}, which {head} was not trained on"
        )
    table = record_split(_open_or_create(source, head, uri), read_split(head))
    todo = _shards(source, done_shards(table))
    if not todo:
        return 0
    layers = read_layers(head, modality)
    if source.rotation is not None:  # the table's vectors are rotated, the encoder's are not
        inverse = torch.from_numpy(np.ascontiguousarray(source.rotation.matrix_DD.T))
        layers = [Layer(layers[0].weight @ inverse, layers[0].bias), *layers[1:]]
    rows = sum(count.rows for count in todo)
    with RunRecord(table, "project", {"source": source.uri, "head": str(head), "table": uri}) as record:
        fragments = write_fragments(table, _batches(source, table, [count.shard for count in todo], layers))
        committed = commit_leases(table, [LeaseResult(tuple(todo), fragments, (), rows)], record.run)
        record.summary |= {"shards": committed.shards, "rows": committed.rows}
    return committed.rows


def _open_or_create(source: VectorTable, head: Path, uri: str) -> VectorTable:
    space = make_space(EncoderConfig(name="matryoshka-head", path=str(head)))
    try:
        table = VectorTable.open(uri, storage=source.storage)
    except TableNotFound:
        return create_table(uri, space, source.kept, source.storage, source=source.source)
    table.check_space(space)
    return table


def _shards(source: VectorTable, done: set[int]) -> list[ShardCount]:
    records = records_of(source).to_pylist()
    # The format of a shard is not stored in the ledger, and is not needed: the file is not opened.
    return [
        ShardCount(
            Shard(record["uri"], record["size"], record["etag"], "webdataset", known_as=record["uri"]),
            record["rows"],
            0,
        )
        for record in records
        if record["shard"] not in done
    ]


def _batches(
    source: VectorTable, table: VectorTable, shards: Sequence[Shard], layers: Sequence[Layer]
) -> Iterator[pa.RecordBatch]:
    wanted = f"shard IN ({', '.join(str(shard.id) for shard in shards)})"
    schema = table_schema(table.space, table.kept)
    names = ["id", "shard", *table.kept.names]
    for batch, x_BD in scan_vectors(source.dataset, names, wanted, _ROWS_AT_ONCE):
        vectors_BD = apply_layers(torch.from_numpy(x_BD.astype(np.float32)), layers)
        if not (is_unit_B := are_unit(vectors_BD)).all():
            raise EncoderError(
                f"{source.uri}: the head gives no direction to row {batch['id'][int(is_unit_B.argmin())]} "
                "(all zeros, NaN or infinity); delete that row, or train the head with a lower optimiser.lr"
            )
        yield pa.RecordBatch.from_arrays([*(batch[name] for name in names), to_arrow(vectors_BD)], schema=schema)
