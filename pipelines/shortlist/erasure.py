"""Remove from a shortlist table what names rows that its tables hold no more. Owns no search."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.shortlist.pieces import Pieces
from pipelines.shortlist.planning import open_lists
from pipelines.storage.addresses import absolute
from pipelines.tables.compaction_commits import purge
from pipelines.tables.companion_commits import delete_rows
from pipelines.tables.rows import ROW_ID, sql_texts
from pipelines.tables.table import VectorTable
from schemas.shortlists import ROWS, shortlist_spec

_AT_ONCE = 10_000


def erase_lists(uri: str, table: VectorTable, *, is_idle: bool) -> tuple[int, int] | None:
    """Remove the whole list of each query that is gone, or that names a row that is gone.

    The next `mlake shortlist` searches anew for the queries that are left without a list.

    Args:
        uri: Address of the shortlist table.
        table: At the version without the rows.
        is_idle: Whether no run is at work; then also what a killed run has found is deleted.

    Returns:
        Queries whose lists were removed, and the version without them; None if there are no lists of this table.
    """
    lists = open_lists(uri, table.storage)
    if lists is None:
        return None
    spec = shortlist_spec(lists.schema, uri)
    by_row = set(ROWS.names) <= set(lists.schema.names)
    query, row, key = ("query_row", "row", ROW_ID) if by_row else ("query_id", "id", "id")
    sides = [name for name, of in ((query, spec.queries), (row, spec.vectors)) if absolute(of) == table.uri]
    if not sides:
        return None
    if is_idle:
        Pieces(uri, table.storage).clear()
    there = table.dataset.to_table(columns=[key])[key].combine_chunks().cast(lists.schema.field(query).type)
    lost = pa.array([], lists.schema.field(query).type)
    for batch in lists.to_batches(columns=[query, row]):
        for side in sides:
            lost = pc.unique(pa.concat_arrays([lost, batch[query].filter(pc.invert(pc.is_in(batch[side], there)))]))
    for where in _conditions(query, lost):
        delete_rows(uri, where, table.storage)
    purge(uri, table.storage)
    lists = open_lists(uri, table.storage)
    assert lists is not None
    return len(lost), lists.version


def _conditions(column: str, values: pa.Array) -> Iterator[str]:
    for start in range(0, len(values), _AT_ONCE):
        some = values.slice(start, _AT_ONCE).to_pylist()
        yield f"{column} IN ({sql_texts(some) if isinstance(some[0], str) else ', '.join(map(str, some))})"
