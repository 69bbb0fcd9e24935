"""Write rows into fragments of a table that no reader sees before they are committed.

Owns the columns of new rows: those that the table has, prefixes cut from the vectors. Owns no commit: that is
`ledger.commit_leases`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
from lance.file import LanceFileReader
from lance.fragment import write_fragments as write_lance_fragments

from pipelines.storage.s3 import lance_access
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.columns import INPUT_HASH, VECTOR, prefix_column

MAX_ROWS_PER_FRAGMENT = 1 << 20


def write_fragments(table: VectorTable, batches: Iterable[pa.RecordBatch]) -> tuple[str, ...]:
    """Write rows that no reader sees before `commit_leases`; prefixes that the table has are cut on the way.

    Args:
        table: The table; nothing of it changes.
        batches: Columns `id, shard, <kept>, vector`, and the hashes if the table has them, in the table's order,
            streamed; memory is bounded by one batch.

    Returns:
        JSON of the new fragments, for `LeaseResult.fragments`.

    Raises:
        OSError: The store refuses: full, out of reach, or not allowed. An error of `batches` is raised as it is.
    """
    prefixes = [prefix_column(dim) for dim in table.prefix_dims]
    # Columns under other names are prefixes still being filled; `mlake shortlist` cuts them for these rows as well.
    known = {"id", "shard", *table.kept.names, INPUT_HASH, VECTOR, *prefixes}
    schema = pa.schema([f for f in table.dataset.schema if f.name in known], table.dataset.schema.metadata)
    source = _Source(_with_prefixes(batches, table.prefix_dims, schema))
    try:
        written = write_lance_fragments(
            pa.RecordBatchReader.from_batches(schema, source),
            table.dataset,
            schema=schema,
            max_rows_per_file=MAX_ROWS_PER_FRAGMENT,
            **lance_access(table.uri, table.storage),
        )
    except OSError as error:
        raise source.error or error from None
    return tuple(json.dumps(fragment.to_json()) for fragment in written)


def written_bytes(fragments: Iterable[str]) -> int:
    """Return the size of the files of fragments that `write_fragments` returned."""
    return sum(file.get("file_size_bytes") or 0 for each in fragments for file in json.loads(each)["files"])


def read_written(table: VectorTable, fragments: Iterable[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of the rows of fragments that `write_fragments` returned, committed or not."""
    access = lance_access(table.uri, table.storage)
    for fragment in fragments:
        for file in json.loads(fragment)["files"]:
            reader = LanceFileReader(f"{table.uri}/data/{file['path']}", columns=list(columns), **access)
            yield from reader.read_all().to_batches()


def _with_prefixes(
    batches: Iterable[pa.RecordBatch], dims: Sequence[int], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        columns = {name: batch.column(name) for name in batch.schema.names}
        if dims:
            full_BD = to_numpy(columns[VECTOR])
            columns |= {prefix_column(dim): to_arrow(cut(full_BD, dim)) for dim in dims}
        yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


class _Source:
    """Keep the error of a stream that Lance reads, since Lance passes on only its text."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except BaseException as error:
            self.error = error
            raise
