"""Apply a head to a table: transform its vectors into another table, without encoding a sample again.

The result equals what `mlake embed` makes of the same shards with the head as its encoder, up to the rounding of the
stored half-precision vectors. Both write the same ledger, so either continues where the other stopped.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.embedding.transform import counts_of, head_transform, transform_shards
from pipelines.encoders import make_space
from pipelines.encoders.checkpoints import read_head, read_split
from pipelines.encoders.of_space import config_of
from pipelines.encoders.registry import describe_tower
from pipelines.tables.create import create_table
from pipelines.tables.ledger import done_shards
from pipelines.tables.runs import RunRecord
from pipelines.tables.splits import record_split
from pipelines.tables.table import VectorTable
from pipelines.training.head_data import table_modality
from schemas.config import EncoderConfig
from schemas.errors import SpaceMismatch, TableNotFound


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
    todo = counts_of(source, without=done_shards(table))
    if not todo:
        return 0
    transform = head_transform(source, head, modality)
    with RunRecord(table, "project", {"source": source.uri, "head": str(head), "table": uri}) as record:
        shards, rows = transform_shards(source, table, todo, transform, record.run)
        record.summary |= {"shards": shards, "rows": rows}
    return rows


def _open_or_create(source: VectorTable, head: Path, uri: str) -> VectorTable:
    space = make_space(EncoderConfig(name="matryoshka-head", path=str(head)))
    try:
        table = VectorTable.open(uri, storage=source.storage)
    except TableNotFound:
        return create_table(uri, space, source.kept, source.storage, source=source.source)
    table.check_space(space)
    return table
