"""Make rows of a table from the vectors of another one, without encoding a sample again.

Ids and kept columns stay; vectors go through a rotation or through a head. What is stored is in half precision, so the
result equals what encoding gives up to that rounding (a cosine of 0.99999 or more). Both write the same ledger, so
either continues where the other stopped. Owns the way of such rows. Owns no decision when it is right to do so.

Shapes: B rows, D width of the source, W width of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.tables.fragments import MAX_ROWS_PER_FRAGMENT, write_fragments
from pipelines.tables.ledger import Ledger, commit_leases, held_shards, records_of, rejects_of
from pipelines.tables.rows import scan_vectors
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats, to_arrow
from pipelines.vectors.matryoshka import are_unit
from pipelines.vectors.rotation import Rotation
from schemas.columns import INPUT_HASH, VECTOR
from schemas.errors import EncoderError
from schemas.records import LeaseResult, Modality, Reject, Shard, ShardCount

_ROWS_AT_ONCE = 4096

Transform = Callable[[Floats], Floats]
"""From the stored vectors of the source, (B, D) float32, to (B, W) float32 unit rows."""


def head_transform(source: VectorTable, head: Path, modality: Modality) -> Transform:
    """Return what a head makes of the vectors of a table of its own encoder, rotated or not."""
    import torch

    from pipelines.encoders.checkpoints import Layer, apply_layers, read_layers  # here, since it loads torch

    layers = read_layers(head, modality)
    if source.rotation is not None:  # the table's vectors are rotated, the encoder's are not
        inverse = torch.from_numpy(np.ascontiguousarray(source.rotation.matrix_DD.T))
        layers = [Layer(layers[0].weight @ inverse, layers[0].bias), *layers[1:]]
    return lambda x_BD: apply_layers(torch.from_numpy(x_BD), layers)


def rotation_transform(source: Rotation | None, result: Rotation | None) -> Transform:
    """Return the way from vectors under one rotation to those under another; None is no rotation."""

    def transform(x_BD: Floats) -> Floats:
        plain_BD = x_BD if source is None else x_BD @ source.matrix_DD
        return plain_BD if result is None else result.apply(plain_BD)

    return transform


def counts_of(source: VectorTable, *, without: Set[int]) -> list[ShardCount]:
    """Return the shards of a table that another one lacks, as they are recorded.

    Args:
        source: The table.
        without: Shards to leave out.
    """
    # The format of a shard is not stored in the ledger, and is not needed: the file is not opened.
    return [
        ShardCount(
            Shard(record["uri"], record["size"], record["etag"], "webdataset", known_as=record["uri"]),
            record["rows"],
            record["rejects"],
        )
        for record in records_of(source).to_pylist()
        if record["shard"] not in without
    ]


def transform_shards(
    source: VectorTable, table: VectorTable, counts: Sequence[ShardCount], transform: Transform, run: str
) -> tuple[int, int]:
    """Add the rows of some shards of one table to another, some million rows a commit, with the rejects of the shards.

    Args:
        source: Holds the shards.
        table: Gets them. What it has and the source has not is null.
        counts: The shards; rows are those that the source holds.
        transform: What becomes of the vectors.
        run: Id of the run.

    Returns:
        Shards and rows that were added.

    Raises:
        EncoderError: A row gets no direction.
    """
    rejects, ledger, shards, rows = _rejects_by_shard(source), Ledger(table), 0, 0
    for group, fragments in _groups(source, counts):
        written = write_fragments(table, _batches(source, table, group, fragments, transform))
        rejected = tuple(reject for count in group for reject in rejects.get(count.shard.id, ()))
        found = LeaseResult(tuple(group), written, rejected, sum(count.rows for count in group))
        done = commit_leases(table, [found], run, ledger=ledger)
        shards, rows = shards + done.shards, rows + done.rows
    return shards, rows


def _groups(source: VectorTable, counts: Sequence[ShardCount]) -> Iterator[tuple[list[ShardCount], list[int]]]:
    """Yield shards that lie together, up to some rows, with the ids of the fragments that hold them."""
    places = dict[int, list[int]]()
    for fragment in source.dataset.get_fragments():
        for shard in held_shards(source.dataset, [fragment]).to_pylist():
            places.setdefault(shard, []).append(fragment.fragment_id)
    groups, rows = [list[ShardCount]()], 0
    for count in sorted(counts, key=lambda each: places.get(each.shard.id, [])):
        if groups[-1] and rows + count.rows > MAX_ROWS_PER_FRAGMENT:
            groups.append([])
            rows = 0
        groups[-1].append(count)
        rows += count.rows
    for group in filter(None, groups):
        yield group, sorted({place for each in group for place in places.get(each.shard.id, [])})


def _batches(
    source: VectorTable,
    table: VectorTable,
    counts: Sequence[ShardCount],
    fragments: Sequence[int],
    transform: Transform,
) -> Iterator[pa.RecordBatch]:
    wanted = f"shard IN ({', '.join(str(count.shard.id) for count in counts)})"
    fields = [field for field in table.dataset.schema if field.name in ("id", "shard", *table.kept.names)]
    held = {*source.kept.names, "id", "shard"}
    if INPUT_HASH in table.dataset.schema.names:
        fields.append(table.dataset.schema.field(INPUT_HASH))
        # The hash is over the prompt too.
        held |= {INPUT_HASH} if source.space.prompts == table.space.prompts else set()
    held &= {*source.dataset.schema.names}
    schema = pa.schema([*fields, table.dataset.schema.field(VECTOR)])
    names = [field.name for field in fields if field.name in held]
    for batch, x_BD in scan_vectors(source.dataset, names, wanted, _ROWS_AT_ONCE, fragments):
        vectors_BW = transform(x_BD.astype(np.float32))
        if not (is_unit_B := are_unit(vectors_BW)).all():
            raise EncoderError(
                f"{source.uri}: the head gives no direction to row {batch['id'][int(is_unit_B.argmin())]} "
                "(all zeros, NaN or infinity); delete that row, or train the head with a lower optimiser.lr"
            )
        columns = [batch[field.name] if field.name in held else pa.nulls(len(batch), field.type) for field in fields]
        yield pa.RecordBatch.from_arrays([*columns, to_arrow(vectors_BW)], schema=schema)


def _rejects_by_shard(source: VectorTable) -> dict[int, list[Reject]]:
    rejects = dict[int, list[Reject]]()
    for row in rejects_of(source).to_pylist():
        reject = Reject(row["shard"], row["position"], row["key"], row["reason"], row["message"])
        rejects.setdefault(row["shard"], []).append(reject)
    return rejects
