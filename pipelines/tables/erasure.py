"""Erase rows of a table, and see that no later run brings them back.

Owns the rows and their records. Owns neither what is remembered of erased samples (`erased.py`), nor publications and
shortlist tables, nor what still keeps bytes (`keepers.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from lance.commit import CommitConflictError

from pipelines.tables.commits import commit_nothing, commit_without
from pipelines.tables.erased import erased_samples, files_of, has_passages, is_erased, own_name, remember
from pipelines.tables.filtered import rows_before
from pipelines.tables.ledger import rows_by_shard
from pipelines.tables.records import amend_records, remove_rejects
from pipelines.tables.rows import TEXTS, check_filter, sql_texts
from pipelines.tables.table import VectorTable
from schemas.column_names import DOCUMENT
from schemas.errors import TableError


def rows_to_erase(table: VectorTable, where: str) -> pa.Table:
    """Find the rows that satisfy a filter: columns `id, shard`, and `document` in a table of passages.

    Raises:
        TableError: The filter cannot be used on the table, fails on a row, or finds a part of a document only.
    """
    check_filter(table.dataset, where, table.uri)
    if "_row" in TEXTS.sub("", where).lower():
        raise TableError(
            f"the filter {where!r} names rows by where they are, which differs between generations; name them by "
            "`id`, `shard` or a kept column"
        )
    try:
        found = table.dataset.scanner(columns=_naming(table), filter=where).to_table()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).partition(", /")[0].split())
        raise TableError(f"the filter {where!r} fails on rows of {table.uri}: {reason}; nothing is erased") from None
    _check_whole_documents(table, found, where)
    return found


def _naming(table: VectorTable) -> list[str]:
    return ["id", "shard", *(name for name in (DOCUMENT,) if has_passages(table))]


def _check_whole_documents(table: VectorTable, found: pa.Table, where: str) -> None:
    """Refuse to erase some passages of a document: cut anew, it would bring parts of them back."""
    if not has_passages(table) or not found.num_rows:
        return
    shards = pc.unique(found["shard"]).to_pylist()
    wanted = Counter(zip(found["shard"].to_pylist(), found[DOCUMENT].to_pylist(), strict=True))
    rows = table.dataset.scanner(columns=["shard", DOCUMENT], filter=f"shard IN ({', '.join(map(str, shards))})")
    there = Counter[tuple[int, str]]()
    for batch in rows.to_batches():
        there.update(each for each in zip(*(column.to_pylist() for column in batch), strict=True) if each in wanted)
    if partly := [each for each, count in wanted.items() if there[each] > count]:
        raise TableError(
            f"the filter {where!r} finds {wanted[partly[0]]} of the {there[partly[0]]} passages of the document "
            f"{partly[0][1]!r}; a document is erased as a whole: use `{DOCUMENT} = '…'`"
        )


@dataclass(frozen=True)
class Removed:
    """What an erasure removed of a generation.

    Attributes:
        rows: Rows by shard.
        rejects: Rejects that had the id of one of the rows, of any content of the same file.
        before: Rows that older versions still have, and the newest had not.
        places: Samples that are known by their place in their file alone.
    """

    rows: Mapping[int, int]
    rejects: int = 0
    before: int = 0
    places: int = 0


def erase_rows(
    table: VectorTable, base: VectorTable, where: str | None, run: str, *, fences: bool, goes_on: bool
) -> Removed:
    """Remove the rows that satisfy a filter from the newest version; older versions still hold them.

    What is erased is remembered and recorded first. So a call that was killed may be repeated.

    Args:
        table: A generation.
        base: The first generation, beside which erased samples are remembered.
        where: The filter, which `rows_to_erase` has checked; None is no row.
        run: Id of the run.
        fences: Whether another run may be about to commit such rows: then it looks again at what is remembered.
        goes_on: Remove also the rows that are remembered, since an erasure was killed.
    """
    rejects = places = 0
    while True:
        table = table.refresh()
        found = table.dataset.schema.empty_table().select(_naming(table))
        if where is not None and (found := rows_to_erase(table, where)).num_rows:
            places = remember(base, table, found, run)
        if goes_on:
            both = pa.concat_tables([found, *_live_erased(table)])
            found = both.group_by(both.column_names).aggregate([])
        if not found.num_rows and fences:
            commit_nothing(table.uri, table.storage)
            fences = False
            continue
        if not found.num_rows:
            before, places = (0, 0) if where is None else _remember_before(table, base, where, run)
            return Removed({}, rejects, before, places)
        erased, held, keys = Counter(found["shard"].to_pylist()), rows_by_shard(table.dataset), _keys(table, found)
        rejects += remove_rejects(table, keys, held, of_passages=has_passages(table))
        amend_records(table, {shard: held[shard] - rows for shard, rows in erased.items()})
        try:
            commit_without(table.dataset, _named(found) if goes_on else str(where), run, table.storage)
        except CommitConflictError:
            continue
        return Removed(dict(erased), rejects, places=places)


def _keys(table: VectorTable, found: pa.Table) -> dict[int, set[str]]:
    """Return by shard the names that rejects of erased samples may have."""
    keys = dict[int, set[str]]()
    for name in _naming(table):
        if name != "shard":
            for shard, key in zip(found["shard"].to_pylist(), found[name].to_pylist(), strict=True):
                keys.setdefault(shard, set()).update((key, own_name(shard, key)))
    return keys


def _named(rows: pa.Table) -> str:
    """Return the filter that finds rows by shard and id."""
    ids = dict[int, list[str]]()
    for shard, name in zip(rows["shard"].to_pylist(), rows["id"].to_pylist(), strict=True):
        ids.setdefault(shard, []).append(name)
    return " OR ".join(f"(shard = {shard} AND id IN ({sql_texts(some)}))" for shard, some in ids.items())


def _live_erased(table: VectorTable) -> Iterator[pa.Table]:
    """Yield the rows of a table that are remembered as erased."""
    erased, files = erased_samples(table), files_of(table)
    for batch in table.dataset.scanner(columns=_naming(table)).to_batches() if erased else ():
        yield pa.table(batch.filter(pa.array(is_erased(batch, erased, files))))


def rows_without(table: VectorTable, where: str | None) -> tuple[Counter[int], int]:
    """Count the rows of a version that are not erased.

    Returns:
        The rows by shard that neither satisfy a filter nor are remembered as erased; and how many others there are.
        None as a filter is no row.
    """
    dataset, erased = table.dataset, erased_samples(table)
    rows, files = Counter(rows_by_shard(dataset)), files_of(table)
    gone = Counter[int]()
    try:
        meant = dataset.scanner(columns=["shard"], filter=where or "false", with_row_id=True).to_table()
    except (OSError, ValueError):  # an older version without a column of the filter
        meant = dataset.schema.empty_table().select(["shard"]).append_column("_rowid", pa.array([], pa.uint64()))
    gone.update(meant["shard"].to_pylist())
    if erased:
        known = meant["_rowid"].combine_chunks()
        for batch in dataset.scanner(columns=["shard", erased.column], with_row_id=True).to_batches():
            is_gone = pc.and_not(pa.array(is_erased(batch, erased, files)), pc.is_in(batch["_rowid"], known))
            gone.update(batch["shard"].filter(is_gone).to_pylist())
    return +(rows - gone), gone.total()


def erased_before(table: VectorTable, where: str) -> pa.Table:
    """Find the rows that satisfy a filter in older versions of a table and are not in its newest one."""
    return rows_before(table, where, _naming(table))


def _remember_before(table: VectorTable, base: VectorTable, where: str, run: str) -> tuple[int, int]:
    """Remember rows that only older versions have, so that their shard does not bring them back.

    Returns:
        How many there are, and of how many samples only the place is known.
    """
    found = erased_before(table, where)
    # Of a shard that is there, a row that does not satisfy the filter any more stays.
    held = pa.array(list(rows_by_shard(table.dataset)), pa.int64())
    gone = found.filter(pc.invert(pc.is_in(found["shard"], held)))
    return int(found.num_rows), remember(base, table, gone, run) if gone.num_rows else 0
