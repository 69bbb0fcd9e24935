"""Erase rows of a table, and remember them, so that no later run brings them back.

An erased sample is remembered by its shard, a hash of its id, and how the sample got that id, in the companion `erased`
of the table's first generation. A shard that is read again, for its rejects or for a new generation, leaves such
samples out; a run that gives samples other ids could not know them, and is refused. A shard that was changed is another
shard: it is embedded as it is.

Owns the rows and their records. Owns neither publications nor shortlist tables, nor what still keeps bytes
(`keepers.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance.commit import CommitConflictError

from pipelines.storage.addresses import sibling
from pipelines.tables.commits import commit_without
from pipelines.tables.compaction_commits import purge
from pipelines.tables.companion_commits import append_rows
from pipelines.tables.companions import ensure_companion, read_companion
from pipelines.tables.filtered import rows_before
from pipelines.tables.ledger import rows_by_shard
from pipelines.tables.publication_log import generation_uri, table_of
from pipelines.tables.records import amend_records, remove_rejects
from pipelines.tables.rows import TEXTS, check_filter, sql_texts
from pipelines.tables.runs import recorded_source
from pipelines.tables.table import VectorTable
from schemas.column_names import DOCUMENT
from schemas.columns import ERASED
from schemas.config import StorageConfig
from schemas.errors import ColumnMismatch, TableError, TableNotFound
from schemas.printable import counted
from schemas.publications import Publication
from schemas.records import Reject, Shard
from schemas.source import TableSource


@dataclass(frozen=True)
class Erased:
    """Samples that must not be embedded again.

    Attributes:
        column: Which names a sample in the rows of the table: `id`, or `document` where they are passages.
        hashes: Of erased samples, sorted, by shard.
    """

    column: str
    hashes: Mapping[int, npt.NDArray[np.int64]]

    def __bool__(self) -> bool:
        """Tell whether any is known."""
        return bool(self.hashes)


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
    return ["id", "shard", *(name for name in (DOCUMENT,) if _has_passages(table))]


def _has_passages(table: VectorTable) -> bool:
    return table.source is not None and table.source.chunk is not None


def _check_whole_documents(table: VectorTable, found: pa.Table, where: str) -> None:
    """Refuse to erase some passages of a document: cut anew, it would bring parts of them back."""
    if not _has_passages(table) or not found.num_rows:
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
    """

    rows: Mapping[int, int]
    rejects: int = 0
    before: int = 0


def erase_rows(table: VectorTable, base: VectorTable, where: str, run: str) -> Removed:
    """Remove the rows that satisfy a filter from the newest version; older versions still hold them.

    What is erased is remembered and recorded first. So a call that was killed may be repeated.

    Args:
        table: A generation.
        base: The first generation, beside which erased samples are remembered.
        where: The filter, which `rows_to_erase` has checked.
        run: Id of the run.
    """
    ensure_companion(base, "erased")
    rejects = 0
    while True:
        table = table.refresh()
        found = rows_to_erase(table, where)
        erased = Counter(found["shard"].to_pylist())
        if not erased:
            return Removed({}, rejects, _remember_before(table, base, where, run))
        _remember(base, found, run, _named_by(table))
        held = rows_by_shard(table.dataset)
        names = found.group_by("shard").aggregate([("id", "list")])
        keys = dict(zip(names["shard"].to_pylist(), map(set, names["id_list"].to_pylist()), strict=True))
        if _has_passages(table):
            for shard, name in zip(found["shard"].to_pylist(), found[DOCUMENT].to_pylist(), strict=True):
                keys[shard].add(name)
        rejects += remove_rejects(table, keys, held, of_passages=_has_passages(table))
        amend_records(table, {shard: held[shard] - rows for shard, rows in erased.items()})
        try:
            commit_without(table.dataset, where, run, table.storage)
        except CommitConflictError:
            continue
        return Removed(dict(erased), rejects)


def erase_returned(table: VectorTable, shards: Collection[int], run: str) -> int:
    """Erase rows of samples that were erased while a run was at work on their shards; return how many.

    Args:
        table: The table that got the rows.
        shards: Ids of the run's shards.
        run: Id of the run.
    """
    while True:
        table, erased = table.refresh(), erased_samples(table)
        if not (of := sorted(erased.hashes.keys() & shards)):
            return 0
        dataset, naming = table.dataset, _naming(table)
        batches = dataset.scanner(columns=naming, filter=f"shard IN ({', '.join(map(str, of))})").to_batches()
        names: dict[int, list[str]] = {}
        for batch in batches:
            for row in batch.filter(pa.array(is_erased(batch, erased))).to_pylist():
                names.setdefault(row["shard"], []).append(row["id"])
        if not names:
            return 0
        held = rows_by_shard(dataset)
        amend_records(table, {shard: held[shard] - len(gone) for shard, gone in names.items()})
        where = " OR ".join(f"(shard = {shard} AND id IN ({sql_texts(gone)}))" for shard, gone in names.items())
        try:
            commit_without(dataset, where, run, table.storage)
        except CommitConflictError:
            continue
        purge(table.uri, table.storage)
        return sum(map(len, names.values()))


def erased_before(table: VectorTable, where: str) -> pa.Table:
    """Find the rows that satisfy a filter in older versions of a table and are not in its newest one."""
    return rows_before(table, where, _naming(table))


def _remember_before(table: VectorTable, base: VectorTable, where: str, run: str) -> int:
    """Remember rows that only older versions have, so that their shard does not bring them back; return how many."""
    found = erased_before(table, where)
    # Of a shard that is there, a row that does not satisfy the filter any more stays.
    held = pa.array(list(rows_by_shard(table.dataset)), pa.int64())
    if (gone := found.filter(pc.invert(pc.is_in(found["shard"], held)))).num_rows:
        _remember(base, gone, run, _named_by(table))
    return int(found.num_rows)


def erased_samples(table: VectorTable) -> Erased:
    """Return the samples that must not be embedded again, for a table of any generation."""
    rows = _memory(table.uri, table.storage)
    rows = rows.filter(pc.equal(rows["named_by"], _named_by(table)))
    shards_N, samples_N = (rows[name].to_numpy() for name in ("shard", "sample"))
    hashes = {int(shard): np.unique(samples_N[shards_N == shard]) for shard in np.unique(shards_N)}
    return Erased(DOCUMENT if _has_passages(table) else "id", hashes)


def check_erased(
    uri: str, table: VectorTable | None, shards: Sequence[Shard], source: TableSource, storage: StorageConfig
) -> list[str]:
    """Refuse to embed shards whose erased samples could not be known by their ids.

    Args:
        uri: Address of the table that gets the rows; of any generation.
        table: The table there, if there is one.
        shards: They are to be embedded.
        source: What the run makes its rows from.
        storage: Where S3 is.

    Returns:
        A sentence for each shard that has changed since samples of it were erased, and is embedded as it is.

    Raises:
        ColumnMismatch: Samples were erased under other ids than those that the run would give them.
    """
    memory = _memory(uri, storage)
    if not memory.num_rows:
        return []
    _check_names(memory, source.named_by if table is None else _named_by(table), shards)
    base, _ = table_of(uri, storage)
    return _changed(memory, VectorTable.open(base, storage=storage), shards)


def _check_names(memory: pa.Table, named_by: str, shards: Sequence[Shard]) -> None:
    samples = memory.group_by(["shard", "named_by"]).aggregate([("sample", "count_distinct")])
    by_shard = dict[int, dict[str, int]]()
    for row in samples.to_pylist():
        by_shard.setdefault(row["shard"], {})[row["named_by"]] = row["sample_count_distinct"]
    for shard in shards:
        erased = by_shard.get(shard.id, {})
        if erased.get(named_by, 0) < max(erased.values(), default=0):
            was = max(erased, key=lambda name: erased[name])
            raise ColumnMismatch(
                f"{counted(erased[was], 'sample')} of {shard.name} are erased, and known by the ids of {was}; "
                f"with {named_by} this run could not know them, and would bring them back; use {was}, or take the "
                "samples out of the shard: a shard that changes is embedded as it is"
            )


def _changed(memory: pa.Table, base: VectorTable, shards: Sequence[Shard]) -> list[str]:
    erased = Counter(memory.group_by(["shard", "sample"]).aggregate([])["shard"].to_pylist())
    records = read_companion(base, "shards").select(["shard", "uri"]).to_pylist()
    was = {record["uri"]: record["shard"] for record in records if record["shard"] in erased}
    return [
        f"{shard.name} has changed since `mlake delete` erased {counted(erased[was[shard.name]], 'sample')} of it: it "
        "is embedded as it is; take them out of the shard if they are still there"
        for shard in shards
        if was.get(shard.name, shard.id) != shard.id
    ]


def is_erased(rows: pa.RecordBatch, erased: Erased) -> npt.NDArray[np.bool_]:
    """Tell which rows were erased; they have the columns `shard` and `erased.column`."""
    samples = rows[erased.column]
    shards_N = rows["shard"].to_numpy()
    found_N = np.zeros(len(shards_N), bool)
    for shard in erased.hashes.keys() & set(np.unique(shards_N).tolist()):
        places = np.flatnonzero(shards_N == shard)
        hashes = [_hash(shard, name) for name in samples.take(pa.array(places)).to_pylist()]
        found_N[places] = np.isin(hashes, erased.hashes[shard])
    return found_N


def without_erased(rejects: Iterable[Reject], erased: Erased) -> list[Reject]:
    """Leave out the rejects that have the id of an erased sample of their shard."""

    def is_known(reject: Reject) -> bool:
        # A passage is rejected under its own id, and a sample that was not cut yet under that of the document.
        names = [reject.key, *([reject.key.rpartition("#")[0]] if erased.column == DOCUMENT else [])]
        return any(_hash(reject.shard, name) in erased.hashes.get(reject.shard, ()) for name in names)

    return [reject for reject in rejects if not is_known(reject)]


def check_none_erased(target: Publication, base: str, storage: StorageConfig) -> None:
    """Refuse a publication that shows rows which were erased from later versions.

    Raises:
        TableError: It shows some.
    """
    assert target.state is not None
    table = VectorTable.open(generation_uri(base, target.state.generation), target.state.version, storage=storage)
    if not (erased := erased_samples(table)):
        return
    shards = f"shard IN ({', '.join(map(str, erased.hashes))})"
    batches = table.dataset.scanner(columns=_naming(table), filter=shards).to_batches()
    if rows := sum(int(is_erased(batch, erased).sum()) for batch in batches):
        raise TableError(
            f"publication {target.number} shows {counted(rows, 'row')} that `mlake delete` has erased; name a "
            "later one with --to, or give --even-if-erased to show them again"
        )


def _memory(uri: str, storage: StorageConfig) -> pa.Table:
    """Return what is remembered of erased samples for a table of any generation."""
    base, _ = table_of(uri, storage)
    try:
        return read_companion(VectorTable.open(base, storage=storage), "erased")
    except TableNotFound:
        return ERASED.empty_table()


def _remember(base: VectorTable, found: pa.Table, run: str, named_by: str) -> None:
    shards, names = found["shard"], found[DOCUMENT if DOCUMENT in found.schema.names else "id"].to_pylist()
    hashes = [_hash(shard, name) for shard, name in zip(shards.to_pylist(), names, strict=True)]
    columns = [shards, pa.array(hashes, pa.int64()), pa.repeat(named_by, len(hashes)), pa.repeat(run, len(hashes))]
    append_rows(sibling(base.uri, "erased"), pa.table(columns, schema=ERASED), base.storage)


def _named_by(table: VectorTable) -> str:
    source = recorded_source(table)
    return "an unknown input.id" if source is None else source.named_by


def _hash(shard: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{shard}\0{name}".encode()).digest()[:8], "big", signed=True)
