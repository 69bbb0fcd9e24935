"""What the companions `shards` and `rejects` say: what each shard gave, and which of its samples were rejected.

Rows are appended and never changed, so an append costs the same however many there are. Of several records of a shard
the last one counts. Of several contents of one file, the one whose rows are in the table counts; else the last one that
gave none. Everything that another content gave, rejects too, is replaced with it: it counts no more, and `fold_records`
deletes it.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.addresses import sibling
from pipelines.tables.companion_commits import append_rows, delete_rows
from pipelines.tables.companions import Owner, open_companion, read_companion
from schemas.columns import REJECTS, SHARDS
from schemas.errors import TableNotFound
from schemas.records import Reject, Shard, ShardCount

_ROW = "_rowid"


def current_records(table: Owner, held: Collection[int] | pa.Int64Array) -> pa.Table:
    """Return one record for each shard that the table holds and for each that gave no rows; columns of `SHARDS`.

    Args:
        table: The table.
        held: Shards with rows in the table.
    """
    return _current(read_companion(table, "shards"), held)


def empty_shards(table: Owner, held: pa.Int64Array) -> pa.Int64Array:
    """Return the shards that gave no rows, and count as committed; see `current_records`."""
    if not pc.any(pc.equal(read_companion(table, "shards", ("rows",))["rows"], 0)).as_py():
        return pa.array([], pa.int64())
    records = _current(read_companion(table, "shards", ("shard", "uri", "rows")), held)
    return records.filter(pc.invert(_is_one_of(records, held)))["shard"].combine_chunks()


def addresses_of(table: Owner, shards: pa.Int64Array) -> dict[int, str]:
    """Return the addresses of shards by their ids, as far as they are recorded."""
    if not len(shards):
        return {}
    records = read_companion(table, "shards", ("shard", "uri"))
    known = records.filter(_is_one_of(records, shards))
    return dict(zip(known["shard"].to_pylist(), known["uri"].to_pylist(), strict=True))


def current_rejects(table: Owner, held: Collection[int] | pa.Int64Array) -> pa.Table:
    """Return the rejects of the shards that the table holds, or that gave no rows; columns of `REJECTS`."""
    records = current_records(table, held)
    return _rejects_of(records, read_companion(table, "rejects"))


def append_records(table: Owner, counts: Sequence[ShardCount], rejects: Iterable[Reject], run: str) -> None:
    """Append what shards gave and what was rejected of them; doing it twice changes nothing."""
    now = dt.datetime.now(dt.UTC)
    uris = {count.shard.id: count.shard.name for count in counts}
    rejected = [{**vars(reject), "uri": uris[reject.shard], "run": run} for reject in rejects]
    if rejected:
        append_rows(sibling(table.uri, "rejects"), pa.Table.from_pylist(rejected, schema=REJECTS), table.storage)
    records = [{**_identity(count.shard), "rows": count.rows, "rejects": count.rejects} for count in counts]
    _append([record | {"run": run, "landed_at": now} for record in records], table)


def withdraw_records(table: Owner, shards: Collection[int], run: str) -> None:
    """Delete what a run recorded of shards that another run has recorded too, and committed first."""
    if not shards:
        return
    records = read_companion(table, "shards")
    of_others = records.filter(pc.and_(_is_one_of(records, shards), pc.not_equal(records["run"], run)))
    if taken := set(of_others["shard"].to_pylist()):
        where = f"run = '{run}' AND shard IN ({', '.join(map(str, taken))})"
        for suffix in ("rejects", "shards"):
            delete_rows(sibling(table.uri, suffix), where, table.storage)


def unrecorded(table: Owner, held: Collection[int]) -> set[int]:
    """Return the shards that have rows in the table, but no record."""
    return set(held) - set(read_companion(table, "shards")["shard"].to_pylist())


def restore_records(table: Owner, rows: Mapping[int, int], listed: Iterable[Shard]) -> int:
    """Record again shards whose records were lost; return how many.

    Args:
        table: The table.
        rows: Number of rows in the table, by shard, of the shards without a record.
        listed: Shards that a run has listed; only they tell which file a shard of the table is.
    """
    rejects = read_companion(table, "rejects")
    last_run = dict(zip(rejects["shard"].to_pylist(), rejects["run"].to_pylist(), strict=True))
    columns = [pa.array(list(last_run), pa.int64()), pa.array(list(last_run.values()), pa.string())]
    of_last_run = _rejects_of(pa.table(columns, ["shard", "run"]), rejects)["shard"]
    rejected = {count["values"]: count["counts"] for count in pc.value_counts(of_last_run).to_pylist()}
    now = dt.datetime.now(dt.UTC)
    known = {shard.id: shard for shard in listed if shard.id in rows}
    records = [
        _identity(shard)
        | {"rows": rows[number], "rejects": rejected.get(number, 0)}
        | {"run": last_run.get(number, ""), "landed_at": now}
        for number, shard in known.items()
    ]
    _append(records, table)
    return len(records)


def amend_records(table: Owner, rows: Mapping[int, int]) -> None:
    """Record another number of rows for shards that are recorded already; their rejects stay as they are.

    Args:
        table: The table.
        rows: Their numbers of rows from now on, by shard.
    """
    records = _last_of_each(read_companion(table, "shards"), ["shard"])
    known = records.filter(_is_one_of(records, rows)).to_pylist()
    _append([record | {"rows": rows[record["shard"]]} for record in known], table)


def remove_rejects(
    table: Owner, keys: Mapping[int, Collection[str]], held: Collection[int], *, of_passages: bool = False
) -> int:
    """Delete what was ever rejected of some files under some ids; return how many rejects.

    Args:
        table: The table.
        keys: Ids of samples, by shard; every content of the shard's file is meant.
        held: Shards with rows in the table.
        of_passages: Whether the ids name documents, and the rejects of their passages are meant too.
    """
    records, there = read_companion(table, "shards"), _with_rows(table, "rejects")
    uris = dict(zip(records["shard"].to_pylist(), records["uri"].to_pylist(), strict=True))
    pairs = {(uris.get(shard), key) for shard, of_shard in keys.items() for key in of_shard if key}
    is_gone = [
        (uri, key) in pairs or (of_passages and (uri, key.rpartition("#")[0]) in pairs)
        for uri, key in zip(there["uri"].to_pylist(), there["key"].to_pylist(), strict=True)
    ]
    if not any(is_gone):
        return 0
    before = Counter(current_rejects(table, held)["shard"].to_pylist())
    rows = there.filter(pa.array(is_gone))[_ROW].to_pylist()
    delete_rows(sibling(table.uri, "rejects"), f"{_ROW} IN ({', '.join(map(str, rows))})", table.storage)
    after = Counter(current_rejects(table, held)["shard"].to_pylist())
    changed = {shard: after[shard] for shard in before if after[shard] != before[shard]}
    known = current_records(table, held)
    known = known.filter(_is_one_of(known, changed))
    _append([record | {"rejects": changed[record["shard"]]} for record in known.to_pylist()], table)
    return len(rows)


def fold_records(table: Owner, held: Collection[int]) -> None:
    """Delete the records and rejects that do not count any more. Call it only while no run writes to the table."""
    records = _current(_with_rows(table, "shards"), held)
    rejects = _rejects_of(records, _with_rows(table, "rejects"))
    for suffix, current in (("shards", records), ("rejects", rejects)):
        there = _with_rows(table, suffix)
        gone = there.filter(pc.invert(pc.is_in(there[_ROW], current[_ROW].combine_chunks())))[_ROW].to_pylist()
        if gone:
            delete_rows(sibling(table.uri, suffix), f"{_ROW} IN ({', '.join(map(str, gone))})", table.storage)


def _identity(shard: Shard) -> dict[str, object]:
    return {"shard": shard.id, "uri": shard.name, "size": shard.size, "etag": shard.etag}


def _append(records: Sequence[dict[str, object]], table: Owner) -> None:
    if records:
        append_rows(sibling(table.uri, "shards"), pa.Table.from_pylist(list(records), schema=SHARDS), table.storage)


def _with_rows(table: Owner, suffix: str) -> pa.Table:
    try:
        return open_companion(table, suffix).scanner(with_row_id=True).to_table()
    except TableNotFound:
        columns = SHARDS if suffix == "shards" else REJECTS
        return columns.append(pa.field(_ROW, pa.uint64())).empty_table()


def _current(records: pa.Table, held: Collection[int] | pa.Int64Array) -> pa.Table:
    last = _last_of_each(records, ["shard"])
    is_held = _is_one_of(last, held)
    there = last.filter(is_held)
    empty = _last_of_each(last.filter(pc.and_not(pc.equal(last["rows"], 0), is_held)), ["uri"])
    occupied = pc.is_in(empty["uri"], there["uri"].combine_chunks())
    return pa.concat_tables([there, empty.filter(pc.invert(occupied))])


def _is_one_of(rows: pa.Table, shards: Collection[int] | pa.Int64Array) -> pa.ChunkedArray:
    return pc.is_in(rows["shard"], shards if isinstance(shards, pa.Array) else pa.array(list(shards), pa.int64()))


def _rejects_of(records: pa.Table, rejects: pa.Table) -> pa.Table:
    """Return the rejects that belong to records: of the same shard and run, each position once."""
    last = _last_of_each(rejects, ["shard", "run", "position"])
    return last.join(records.select(["shard", "run"]), ["shard", "run"], join_type="left semi").select(
        last.column_names
    )


def _last_of_each(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return the last row of each combination of values of the key columns, in the order of the rows."""
    place = "_place"
    numbered = rows.select(list(keys)).append_column(place, pa.array(np.arange(len(rows))))
    last = numbered.group_by(list(keys)).aggregate([(place, "max")])[f"{place}_max"]
    return rows.take(np.sort(last.to_numpy()))
