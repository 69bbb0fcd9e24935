"""Let one row stand for several: the best of each group, or one of each set of equal vectors.

Owns which rows stay, and how many have to be searched for that. Owns no search.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import pyarrow as pa

from pipelines.tables.hits import QUERY
from pipelines.tables.rows import MADE
from pipelines.vectors.arrays import to_numpy
from schemas.columns import VECTOR
from schemas.errors import TableError, nearest

_FIRST_ASKED, _WIDER = 4, 4


def best_of_each(
    search: Callable[[int, list[str]], pa.Table],
    k: int,
    wanted: Sequence[str],
    group_by: str | None,
    *,
    distinct: bool,
) -> pa.Table:
    """Search until k rows are found that stand for different groups, or until there are no more rows.

    Args:
        search: Returns the best n rows with the named columns and others of its own, best first.
        k: Rows wanted.
        wanted: Columns to return, beside those that the search adds.
        group_by: Column; of the rows with one value of it only the best stays. A null is a group of its own each time.
        distinct: Of rows whose full vectors are equal, bit for bit, only the first stays.
    """
    if group_by is None and not distinct:
        return search(k, list(wanted))
    names = list(dict.fromkeys([*wanted, *([group_by] if group_by else []), *([VECTOR] if distinct else [])]))
    asked = _FIRST_ASKED * k
    while True:
        rows = search(asked, names)
        keep = _places_of_first(rows, group_by, distinct=distinct)
        if len(keep) >= k or rows.num_rows < asked:
            extra = [name for name in names if name not in wanted]
            return rows.take(pa.array(keep[:k], pa.int64())).drop_columns(extra)
        asked *= _WIDER


def concatenate_answers(answers: Iterable[pa.Table]) -> pa.Table:
    """Put the answers to several queries below each other, with the query's number in a first column `query`."""
    numbered = [
        rows.add_column(0, QUERY, pa.array([number] * rows.num_rows, pa.int64())) for number, rows in enumerate(answers)
    ]
    return pa.concat_tables(numbered)


def check_group(schema: pa.Schema, group_by: str | None, uri: str) -> None:
    """Refuse a column whose values cannot be grouped.

    Raises:
        TableError: There is no such column, it holds vectors, lists or structs, or a search uses its name.
    """
    if group_by is None:
        return
    known = [field.name for field in schema if not pa.types.is_nested(field.type) and field.name not in MADE]
    if not isinstance(group_by, str):
        raise TableError(f"group_by={group_by!r}: pass the name of one column; there are: {', '.join(known)}")
    if group_by not in known:
        raise TableError(
            f"group_by={group_by!r}: no column of {uri} that can be grouped by{nearest(group_by, known)}; there are: "
            f"{', '.join(known)}"
        )


def _places_of_first(rows: pa.Table, group_by: str | None, *, distinct: bool) -> list[int]:
    groups = rows[group_by].to_pylist() if group_by is not None else [None] * rows.num_rows
    vectors = [row.tobytes() for row in to_numpy(rows[VECTOR])] if distinct else [b""] * rows.num_rows
    seen_groups, seen_vectors, keep = set[Hashable](), set[bytes](), list[int]()
    for place, (group, vector) in enumerate(zip(groups, vectors, strict=True)):
        if (group is not None and group in seen_groups) or (distinct and vector in seen_vectors):
            continue
        seen_groups.add(group)
        seen_vectors.add(vector)
        keep.append(place)
    return keep
