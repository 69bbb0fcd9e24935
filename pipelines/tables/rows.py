"""Read the rows of a table: scan their vectors, or take some rows by their ids.

Row ids are Lance's stable ids: they survive updates and compaction. Owns no search and no commit.

Shapes: B rows of a batch, D width of a column of vectors, K rows asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from lance import LanceDataset

from pipelines.vectors.arrays import Halves, RowIds, to_numpy
from schemas.columns import VECTOR
from schemas.errors import TableError, nearest, reason_of

ROW_ID = "_rowid"
_SAMPLED_FRAGMENTS, _SAMPLED_ROWS = 32, 512
# How Lance begins the reason of a filter that fails.
_WRAPPED = re.compile(r"^(External error: |Query Execution error: |Invalid user input: |Error applying filter[^:]*: )+")
TEXTS = re.compile(r"""'[^']*'|"[^"]*\"""")
"""The texts of a filter; Lance takes what is in double quotes for one too."""
# Texts, names and comments of SQL; what stands in double quotes is group 1.
_QUOTED = re.compile(r"""'[^']*'|`[^`]*`|--[^\n]*|/\*.*?\*/|"([^"]*)\"""", re.DOTALL)
# A question mark, `$1` or `:name` stands for a value to come; Lance ends with a panic. `::` is a cast.
_PLACEHOLDER = re.compile(r"\?|\$\w*|(?<!:):\w+")
_OTHER_TYPE = re.compile(r"Received literal \w+\(.*\) and could not convert to literal of type '(\w+)'")
MADE = ("score", "query", "_distance", ROW_ID, "_rowaddr")
"""Names of what a search adds to its rows; another tool may have added columns of these names to a table."""


def check_columns(
    dataset: LanceDataset, columns: Iterable[str] | None, uri: str, made: Sequence[str] = ()
) -> list[str] | None:
    """Refuse columns that cannot be returned; give their names as a list.

    Args:
        dataset: The table.
        columns: Names; None is the default.
        uri: Address of the table, for messages.
        made: Names of what is added to the columns.

    Raises:
        TableError: They are no names, or a name is not a column of the table, or there twice.
    """
    if columns is None:
        return None
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise TableError(f"columns={columns!r}: pass a list of names, such as columns=['id']")
    names = [name.as_py() if isinstance(name, pa.Scalar) else name for name in columns]
    for name in names:
        if not isinstance(name, str):
            raise TableError(f"columns: {name!r} is no name, but of type {type(name).__name__}; pass a list of names")
        if name in made:
            raise TableError(f"column {name!r} cannot be asked for: a search uses that name itself")
        if name not in dataset.schema.names:
            known = [column for column in dataset.schema.names if not column.startswith(VECTOR)]
            raise TableError(f"{uri} has no column {name!r}{nearest(name, known)}; it has: {', '.join(known)}")
        if names.count(name) > 1:
            raise TableError(f"column {name!r} is named twice; name it once")
    return [str(name) for name in names]


def check_filter(dataset: LanceDataset, where: str | None, uri: str) -> None:
    """Refuse a filter that is not SQL over the table's columns.

    Raises:
        TableError: It cannot be read to its end, names a column that is not there, is not true or false for a row, or
            has double quotes: elsewhere they mean a column, and Lance takes what is in them for a text.
    """
    if where is None:
        return
    for found in _QUOTED.finditer(where) if isinstance(where, str) else ():
        if (word := found[1]) is not None:
            raise TableError(
                f'the filter {where!r} has "{word}" in double quotes, which is a text here and not a column; write '
                f"'{word}' for a text, and `{word}` for a column"
            )
    try:
        _plan_filter(dataset, int(dataset.version), where)
    except (ValueError, OSError) as error:
        raise _unusable(dataset, where, uri, error) from None
    except RuntimeError:  # Lance's own code panicked
        raise _unusable(dataset, where, uri, ValueError("it is SQL that Lance cannot evaluate")) from None


@contextmanager
def using_filter(dataset: LanceDataset, where: str | None, uri: str) -> Iterator[None]:
    """Say in words that a filter, which `check_filter` has passed, fails on the values of the rows.

    Raises:
        TableError: The block ends with such an error of Lance, such as a division by zero.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if where is None or "applying filter" not in str(error):
            raise
        raise _unusable(dataset, where, uri, error) from None


@lru_cache(maxsize=32)
def _plan_filter(dataset: LanceDataset, version: int, where: str) -> None:
    """Have Lance plan a scan, once for each filter of a version: it takes 0.8 ms.

    Lance reads a filter as far as it is one condition, and passes over what follows. In brackets it must be whole.
    """
    bare = _QUOTED.sub("", where)
    if found := _PLACEHOLDER.search(bare):
        raise ValueError(f"{found[0]!r} stands for a value that is not given; write the value")
    dataset.scanner(columns=["id"], filter=where).explain_plan()
    if ";" in bare:
        raise ValueError("it ends at its first semicolon")
    try:
        dataset.scanner(columns=["id"], filter=f"({where}\n)").explain_plan()
        is_whole = min(accumulate({"(": 1, ")": -1}.get(letter, 0) for letter in bare)) == 0
    except (ValueError, OSError):
        is_whole = False
    if not is_whole:
        raise ValueError("more follows after its first condition; join conditions with AND or OR")


def _unusable(dataset: LanceDataset, where: str, uri: str, error: Exception) -> TableError:
    known = [column for column in dataset.schema.names if not column.startswith(VECTOR)]
    reason = _WRAPPED.sub("", reason_of(error))
    if other := _OTHER_TYPE.search(reason):
        how = "a text in single quotes" if other[1] in ("Utf8", "LargeUtf8") else f"a value of type {other[1]}"
        reason += f"; compare that column with {how}, or convert it, as in cast(COLUMN as int) < 10"
    return TableError(
        f"the filter {where!r} cannot be used on {uri}: {reason}; write SQL over its columns, for example "
        f'"shard = 3"; they are: {", ".join(known)}'
    )


def has_everywhere(dataset: LanceDataset, column: str) -> bool:
    """Tell whether every fragment holds a column; one committed while a prefix was being added may lack it."""
    return _has_everywhere(dataset, int(dataset.version), column)


@lru_cache(maxsize=32)
def _has_everywhere(dataset: LanceDataset, version: int, column: str) -> bool:
    """Look into every fragment, once for each version that a handle is open at."""
    ids = {field.name(): field.id() for field in dataset.lance_schema.fields()}
    if column not in ids:
        return False
    fragments = dataset.get_fragments()
    return all(any(ids[column] in file.fields for file in fragment.data_files()) for fragment in fragments)


def scan_vectors(
    dataset: LanceDataset,
    columns: Sequence[str] = (),
    where: str | None = None,
    batch_rows: int | None = None,
    fragments: Sequence[int] | None = None,
) -> Iterator[tuple[pa.RecordBatch, Halves]]:
    """Yield every row once, batch by batch, with its full vector (B, D).

    Args:
        dataset: The version to read.
        columns: Columns of each batch beside `vector`; may name `_rowid`.
        where: SQL that rows must satisfy.
        batch_rows: Rows of a batch; None is Lance's choice.
        fragments: Ids of the fragments to read; None is all.
    """
    some = None if fragments is None else [each for each in dataset.get_fragments() if each.fragment_id in fragments]
    scanner = dataset.scanner(columns=[*columns, VECTOR], filter=where, batch_size=batch_rows, fragments=some)
    for batch in scanner.to_batches():
        yield batch, to_numpy(batch[VECTOR])


def scan_small_batches(
    dataset: LanceDataset,
    columns: Sequence[str],
    batch_rows: int,
    fragments: Sequence[int] | None = None,
    where: str | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield small batches in little memory. A plain scan holds several whole pages at once, and one may have 80 MB.

    Args:
        dataset: The version to read.
        columns: Columns of each batch.
        batch_rows: Rows of a batch at most.
        fragments: Ids of the fragments to read; None is all.
        where: SQL that rows must satisfy.
    """
    settings: dict[str, Any] = {
        "columns": list(columns),
        "batch_size": batch_rows,
        "batch_readahead": 1,
        "fragment_readahead": 1,
    }
    for fragment in dataset.get_fragments():
        if fragments is not None and fragment.fragment_id not in fragments:
            continue
        if where is not None:
            yield from dataset.scanner(fragments=[fragment], filter=where, **settings).to_batches()
            continue
        for start in range(0, fragment.count_rows(), batch_rows):
            scanner = dataset.scanner(fragments=[fragment], offset=start, limit=batch_rows, **settings)
            yield from scanner.to_batches()


def read_rows(dataset: LanceDataset, rows_K: RowIds, columns: Sequence[str]) -> pa.Table:
    """Read columns and `_rowid` of rows by their ids: each row once, in the table's order."""
    listed = ", ".join(map(str, rows_K)) or "NULL"
    names = list(dict.fromkeys([*columns, ROW_ID]))
    return dataset.scanner(columns=names, filter=f"{ROW_ID} IN ({listed})").to_table()


def read_vectors(dataset: LanceDataset, rows_K: RowIds) -> Halves:
    """Read the full vectors (K, D) of rows by their ids, in the order asked for."""
    found = read_rows(dataset, rows_K, [VECTOR])
    return to_numpy(found[VECTOR])[places_of(found, rows_K)]


def sql_texts(texts: Iterable[str]) -> str:
    """Write texts as SQL does, separated by commas, for `= …` or `IN (…)`; `NULL`, which equals nothing, for none."""
    return ", ".join("'" + text.replace("'", "''") + "'" for text in texts) or "NULL"


def find_row(dataset: LanceDataset, name: str, uri: str) -> tuple[int, Halves]:
    """Return the row id and the full vector (D,) of the one row with an id.

    Raises:
        TableError: No row has that id, or rows of several shards have it.
    """
    found = dataset.scanner(columns=["shard", VECTOR, ROW_ID], filter=f"id = {sql_texts([name])}").to_table()
    if found.num_rows == 0:
        raise TableError(f"no row of {uri} has the id {name!r}; `head()` shows some that are there")
    if found.num_rows > 1:
        shards = ", ".join(sorted({str(shard) for shard in found["shard"].to_pylist()}))
        raise TableError(
            f"{found.num_rows} rows of {uri} have the id {name!r} (shards {shards}); pass the vector of one"
        )
    return int(row_ids(found)[0]), to_numpy(found[VECTOR])[0]


def places_of(found: pa.Table, rows_K: RowIds) -> RowIds:
    """Return the place of each asked row id among the rows that `read_rows` found."""
    order = np.argsort(row_ids(found))
    return order[np.searchsorted(row_ids(found), rows_K, sorter=order)]


def row_ids(rows: pa.Table | pa.RecordBatch) -> RowIds:
    """Return the row ids of rows that were read with `_rowid`."""
    ids: RowIds = rows[ROW_ID].to_numpy().astype(np.int64)
    return ids


def find_shared_id(dataset: LanceDataset) -> tuple[str, int] | None:
    """Look for an id that several shards have, in a sample of the rows: shards that count alike begin alike.

    Returns:
        Such an id and how many of the sampled shards have it, or None if the sample holds none.
    """
    fragments = dataset.get_fragments()
    parts = [
        dataset.scanner(columns=["id", "shard"], fragments=[fragment], limit=_SAMPLED_ROWS).to_table()
        for fragment in fragments[:: -(-len(fragments) // _SAMPLED_FRAGMENTS) or 1]
    ]
    if not parts:
        return None
    shards_of_id = pa.concat_tables(parts).group_by("id").aggregate([("shard", "count_distinct")])
    most = shards_of_id.sort_by([("shard_count_distinct", "descending"), ("id", "ascending")]).slice(0, 1).to_pylist()
    if not most or most[0]["shard_count_distinct"] < 2:
        return None
    return most[0]["id"], most[0]["shard_count_distinct"]


def shared_ids_warning(dataset: LanceDataset, uri: str) -> str | None:
    """Return in words that shards share ids, as far as a sample of the rows tells."""
    shared = find_shared_id(dataset)
    return shared and (
        f"warning: {shared[1]} shards share ids, such as {shared[0]!r}: an id alone names no row of {uri}, only "
        "(shard, id) does; set input.id to a field that differs, or embed into a new table with input.id_prefix = "
        '"shard"'
    )
