"""Refuse what would bring erased samples back: shards of which they could not be known, and older publications.

Owns these refusals. Owns neither what is remembered (`erased.py`), nor any row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.tables.erased import erased_samples, files_of, is_erased, memory_of, named_by
from pipelines.tables.publication_log import generation_uri, table_of
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.errors import ColumnMismatch, TableError
from schemas.printable import counted
from schemas.publications import Publication
from schemas.records import Shard
from schemas.source import TableSource


def check_erased(
    uri: str, table: VectorTable | None, shards: Sequence[Shard], source: TableSource, storage: StorageConfig
) -> list[str]:
    """Refuse to embed shards of which erased samples could not be known by their names.

    Args:
        uri: Address of the table that gets the rows; of any generation.
        table: The table there, if there is one.
        shards: They are to be embedded.
        source: What the run makes its rows from.
        storage: Where S3 is.

    Returns:
        A sentence for each shard that has changed since samples of it were erased, which stay out.

    Raises:
        ColumnMismatch: Samples were erased under other names than those that the run would give them, or had only
            their place in a file that has changed.
    """
    memory = memory_of(uri, storage)
    is_of_one = pc.or_(
        pc.is_in(memory["shard"], pa.array([shard.id for shard in shards], pa.int64())),
        pc.is_in(memory["uri"], pa.array([shard.name for shard in shards], pa.string())),
    )
    if not (rows := memory.filter(is_of_one).to_pylist()):
        return []
    names, base = source.named_by if table is None else named_by(table), table_of(uri, storage)[0]
    return [note for shard in shards for note in _check_shard(shard, rows, names, base)]


def _check_shard(shard: Shard, rows: Sequence[Mapping[str, object]], names: str, base: str) -> Iterator[str]:
    of_content = [row for row in rows if row["shard"] == shard.id]
    of_others = [row for row in rows if row["uri"] == shard.name and row["shard"] != shard.id]
    lift = f"mlake lift {base} --shard {shard.name}"
    known = dict[object, set[object]]()
    for row in (*of_content, *(row for row in of_others if row["reach"] != "content")):
        known.setdefault(row["named_by"], set()).add(row["sample"])
    if len(known.get(names, ())) < max(map(len, known.values()), default=0):
        was = max(known, key=lambda name: len(known[name]))
        raise ColumnMismatch(
            f"{counted(len(known[was]), 'sample')} of {shard.name} are erased, and known by the ids of {was}; "
            f"with {names} this run could not know them, and would bring them back; use {was}, or take the samples "
            f"out of the shard and run: {lift}"
        )
    if places := {row["sample"] for row in of_others if row["reach"] == "place" and row["named_by"] == names}:
        raise ColumnMismatch(
            f"{shard.name} has changed since `mlake delete` erased {counted(len(places), 'sample')} of it, which had "
            "no id of their own: whether they are still in it cannot be known; take them out of the shard if they "
            f"are, and run: {lift}"
        )
    if staying := {row["sample"] for row in of_others if row["reach"] in ("file", "table")}:
        yield (
            f"{shard.name} has changed since `mlake delete` erased {counted(len(staying), 'sample')} of it: samples "
            f"with these ids stay out; to let them in: {lift}"
        )


def check_none_erased(target: Publication, base: str, storage: StorageConfig) -> None:
    """Refuse a publication that shows rows which were erased from later versions.

    Raises:
        TableError: It shows some.
    """
    assert target.state is not None
    table = VectorTable.open(generation_uri(base, target.state.generation), target.state.version, storage=storage)
    if rows := count_erased(table):
        raise TableError(
            f"publication {target.number} shows {counted(rows, 'row')} that `mlake delete` has erased; name a "
            "later one with --to, or give --even-if-erased to show them again"
        )


def count_erased(table: VectorTable) -> int:
    """Count the rows of a version that were erased."""
    if not (erased := erased_samples(table)):
        return 0
    files = files_of(table)
    batches = table.dataset.scanner(columns=["shard", erased.column]).to_batches()
    return sum(int(is_erased(batch, erased, files).sum()) for batch in batches)
