"""Remember erased samples, and keep them out of later runs until they are lifted.

An erased sample is remembered in the companion `erased` of the table's first generation: the content of the file that
it was in, the file, a hash of its name, and how far that name reaches (`Reach`). The rule: **an erased sample stays out
under its name, whatever becomes of its shard, until `mlake lift` lets it in again**. Where names cannot tell, since
samples have none of their own or a run names them otherwise, the run is refused (`erased_checks.py`).

Owns this rule, and what is remembered. Owns no row (`erasure.py`).
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.shards.names import format_of
from pipelines.storage.addresses import absolute, sibling
from pipelines.tables.companion_commits import append_rows, delete_rows
from pipelines.tables.companions import ensure_companion, open_companion, read_companion
from pipelines.tables.publication_log import table_of
from pipelines.tables.runs import recorded_source
from pipelines.tables.table import VectorTable
from schemas.column_names import DOCUMENT
from schemas.columns import ERASED, Reach
from schemas.config import StorageConfig
from schemas.errors import TableError, TableNotFound, nearest
from schemas.records import Reject

_NO_HASHES: npt.NDArray[np.int64] = np.empty(0, np.int64)


@dataclass(frozen=True)
class Erased:
    """Samples that must not be embedded, by hashes of their names.

    Attributes:
        column: Which names a sample in the rows of the table: `id`, or `document` where they are passages.
        anywhere: Of samples that stay out of every file.
        by_file: Of samples that stay out of every content of a file, by its address.
        by_shard: Of all samples, by the shard in which they were erased.
    """

    column: str
    anywhere: npt.NDArray[np.int64] = field(default_factory=lambda: _NO_HASHES)
    by_file: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    by_shard: Mapping[int, npt.NDArray[np.int64]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Tell whether any is known."""
        return bool(self.by_shard)

    def find(self, shards: Sequence[int], names: Sequence[str], files: Mapping[int, str]) -> npt.NDArray[np.bool_]:
        """Tell which samples were erased.

        Args:
            shards: The shard of each.
            names: Its id, or that of its document.
            files: Addresses of the shards, by their ids, as far as they are known.
        """
        found_N = np.zeros(len(names), bool)
        if not self:
            return found_N
        shards_N = np.array(shards, np.int64)
        known = {int(shard): self._of(int(shard), files) for shard in np.unique(shards_N)}
        for shard, hashes in known.items():
            if not len(hashes):
                continue
            places = np.flatnonzero(shards_N == shard)
            some = [names[int(place)] for place in places]
            is_known = np.isin(_hashes(some), hashes)
            if any(name.startswith(f"{shard}-") for name in some):
                is_known |= np.isin(_hashes([own_name(shard, name) for name in some]), hashes)
            found_N[places] = is_known
        return found_N

    def _of(self, shard: int, files: Mapping[int, str]) -> npt.NDArray[np.int64]:
        of_file = self.by_file.get(files.get(shard, ""), _NO_HASHES)
        return np.concatenate([self.anywhere, of_file, self.by_shard.get(shard, _NO_HASHES)])


def is_erased(rows: pa.RecordBatch, erased: Erased, files: Mapping[int, str]) -> npt.NDArray[np.bool_]:
    """Tell which rows were erased; they have the columns `shard` and `erased.column`. See `Erased.find`."""
    return erased.find(rows["shard"].to_pylist(), rows[erased.column].to_pylist(), files)


def without_erased(rejects: Sequence[Reject], erased: Erased, files: Mapping[int, str]) -> list[Reject]:
    """Leave out the rejects that have the id of an erased sample. See `Erased.find`."""
    shards = [reject.shard for reject in rejects]
    is_gone_N = erased.find(shards, [reject.key for reject in rejects], files)
    if erased.column == DOCUMENT:
        # A passage is rejected under its own id, and a sample that was not cut yet under that of the document.
        is_gone_N |= erased.find(shards, [reject.key.rpartition("#")[0] for reject in rejects], files)
    return [reject for reject, is_gone in zip(rejects, is_gone_N, strict=True) if not is_gone]


def own_name(shard: int, name: str) -> str:
    """Return the name of a sample without the number of its shard, which changes with the shard's content."""
    return name.removeprefix(f"{shard}-")


class ErasedMemory:
    """What is remembered of erased samples for a table of any generation, read again whenever it has changed.

    Attributes:
        version: Number of the state that was read last; 0 where nothing was ever erased.
    """

    def __init__(self, table: VectorTable) -> None:
        """Read nothing yet."""
        self.version = 0
        self._table, self._erased, self._lock = table, Erased("id"), threading.Lock()
        self._base = VectorTable.open(table_of(table.uri, table.storage)[0], storage=table.storage)

    def read(self) -> tuple[Erased, int]:
        """Return what is remembered now, and the number of this state, which grows."""
        with self._lock:
            try:
                dataset = open_companion(self._base, "erased")
            except TableNotFound:
                return self._erased, 0
            if dataset.version != self.version:
                self._erased = _erased_of(self._table, dataset.to_table(columns=ERASED.names))
                self.version = dataset.version
            return self._erased, self.version


def erased_samples(table: VectorTable) -> Erased:
    """Return the samples that must not be embedded, for a table of any generation."""
    return _erased_of(table, memory_of(table.uri, table.storage))


def _erased_of(table: VectorTable, rows: pa.Table) -> Erased:
    rows = rows.filter(pc.equal(rows["named_by"], named_by(table)))
    everywhere = rows.filter(pc.equal(rows["reach"], "table"))["sample"].to_numpy()
    of_files = rows.filter(pc.equal(rows["reach"], "file"))
    return Erased(
        DOCUMENT if has_passages(table) else "id",
        np.unique(everywhere),
        dict(_grouped(of_files, "uri")),
        dict(_grouped(rows, "shard")),
    )


def remember(base: VectorTable, table: VectorTable, found: pa.Table, run: str) -> int:
    """Remember samples that are erased; doing it twice changes nothing.

    Args:
        base: The first generation.
        table: The generation that holds the rows, at its newest version; or held them, where older versions do.
        found: The rows that are erased: columns `shard` and that of their names.
        run: Id of the erasure.

    Returns:
        How many of them have no name but their place in their file.
    """
    rows = _as_remembered(table, found)
    rows = rows.append_column("run", pa.repeat(run, len(rows)))
    ensure_companion(base, "erased")
    keys = [name for name in ERASED.names if name != "run"]
    there = read_companion(base, "erased").select(keys)
    new = rows.join(there, keys, join_type="left anti").select(ERASED.names).cast(ERASED)
    if new.num_rows:
        append_rows(sibling(base.uri, "erased"), new, base.storage)
    return len(rows.filter(pc.equal(rows["reach"], "place")))


def _as_remembered(table: VectorTable, found: pa.Table) -> pa.Table:
    """Return the rows of `ERASED` without the run, each sample once."""
    column, source, files = DOCUMENT if has_passages(table) else "id", recorded_source(table), files_of(table)
    samples = found.group_by(["shard", column]).aggregate([])
    pairs = list(zip(samples["shard"].to_pylist(), samples[column].to_pylist(), strict=True))
    staying = _Staying(table, pairs, column, files)
    hashes, reaches = list[int](), list[Reach]()
    for shard, name in pairs:
        file, own = files.get(shard, ""), own_name(shard, name)
        is_place = own != name and (source is None or source.id is None) and format_of(file) != "webdataset"
        if (file, own) in staying.in_files or (is_place and file in staying.replaced):
            reach: Reach = "content"
        elif is_place:
            reach = "place"
        else:
            reach = "file" if own != name or name in staying.names else "table"
        hashes.append(_hash(name if is_place else own))
        reaches.append(reach)
    columns = {
        "shard": samples["shard"],
        "uri": pa.array([files.get(shard, "") for shard, _ in pairs], pa.string()),
        "sample": pa.array(hashes, pa.int64()),
        "reach": pa.array(reaches, pa.string()),
        "named_by": pa.repeat(named_by(table), len(pairs)),
    }
    return pa.table(columns)


class _Staying:
    """What the rows that stay in a table say of samples that are erased.

    Attributes:
        names: Names of erased samples that other samples have as well.
        in_files: Files and own names of erased samples that another content of the same file has.
        replaced: Files of erased samples of which the table holds another content.
    """

    def __init__(
        self, table: VectorTable, gone: Sequence[tuple[int, str]], column: str, files: Mapping[int, str]
    ) -> None:
        shards, own = {shard for shard, _ in gone}, {own_name(shard, name) for shard, name in gone}
        affected = {files[shard] for shard in shards if shard in files}
        self.names, self.in_files, self.replaced = set[str](), set[tuple[str, str]](), set[str]()
        others = [shard for shard, file in files.items() if file in affected and shard not in shards]
        wanted, is_gone = pa.array({name for _, name in gone}, pa.string()), set(gone)
        for batch in table.dataset.scanner(columns=["shard", column]).to_batches():
            is_other = pc.is_in(batch["shard"], pa.array(others, pa.int64()))
            near = batch.filter(pc.or_(is_other, pc.is_in(batch[column], wanted)))
            for shard, name in zip(near["shard"].to_pylist(), near[column].to_pylist(), strict=True):
                if (shard, name) in is_gone:
                    continue
                self.names.add(name)
                if shard not in shards and (file := files.get(shard)) in affected:
                    self.replaced.add(file)
                    if own_name(shard, name) in own:
                        self.in_files.add((file, own_name(shard, name)))


def lift(base: str, storage: StorageConfig, ids: Collection[str] = (), shards: Collection[str] = ()) -> int:
    """Let erased samples in again, whenever their shards are read; return how many.

    Args:
        base: Address of the table.
        storage: Where S3 is.
        ids: Ids of samples, or of documents, as their rows had them.
        shards: Addresses of files, all of whose samples are meant.

    Raises:
        TableError: None is known by these.
    """
    base = absolute(base)
    memory = read_companion(VectorTable.open(base, storage=storage), "erased")
    asked = {_hash(name) for name in ids}
    chosen = [
        row
        for row in memory.to_pylist()
        if row["uri"] in shards
        or row["sample"] in asked
        or row["sample"] in {_hash(own_name(row["shard"], name)) for name in ids if name[:1].isdigit()}
    ]
    if not chosen:
        said = f"no erased sample of {base} is known as {' or '.join(map(repr, (*ids, *shards)))}"
        near = "".join(nearest(shard, remembered(base, storage)) for shard in shards)
        raise TableError(f"{said}{near}; `mlake lift {base}` counts them by file")
    samples = dict[int, set[int]]()
    for row in chosen:
        samples.setdefault(row["shard"], set()).add(row["sample"])
    pairs = [f"(shard = {s} AND sample IN ({', '.join(map(str, some))}))" for s, some in samples.items()]
    delete_rows(sibling(base, "erased"), " OR ".join(pairs), storage)
    return sum(map(len, samples.values()))


def remembered(base: str, storage: StorageConfig) -> dict[str, int]:
    """Count the erased samples of each file, by its address; those of files that are not known under an empty one."""
    memory = read_companion(VectorTable.open(base, storage=storage), "erased")
    return dict(Counter(memory.group_by(["uri", "sample"]).aggregate([])["uri"].to_pylist()))


def has_passages(table: VectorTable) -> bool:
    """Tell whether the rows of a table are passages of documents."""
    return table.source is not None and table.source.chunk is not None


def named_by(table: VectorTable) -> str:
    """Return how the samples of a table got their ids."""
    source = recorded_source(table)
    return "an unknown input.id" if source is None else source.named_by


def files_of(table: VectorTable) -> dict[int, str]:
    """Return the addresses of all shards that were ever recorded of a table, by their ids."""
    records = read_companion(table, "shards")
    return dict(zip(records["shard"].to_pylist(), records["uri"].to_pylist(), strict=True))


def memory_of(uri: str, storage: StorageConfig) -> pa.Table:
    """Return what is remembered of erased samples for a table of any generation."""
    base, _ = table_of(uri, storage)
    try:
        return read_companion(VectorTable.open(base, storage=storage), "erased")
    except TableNotFound:
        return ERASED.empty_table()


def _grouped(rows: pa.Table, by: str) -> Iterator[tuple[Any, npt.NDArray[np.int64]]]:
    for group in rows.group_by(by).aggregate([("sample", "distinct")]).to_pylist():
        if group[by] != "":
            yield group[by], np.array(group["sample_distinct"], np.int64)


def _hashes(names: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(_hash, names), np.int64, len(names))


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
