"""VectorTable: a Lance table of one space, and the compare-and-swap commit that lands each shard exactly once.

Owns every write to a vector table and to its companions `<table>.shards.lance` (what each shard gave) and
`<table>.rejects.lance` (what could not be embedded, and why). Owns no reading of sources and no encoding.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceDataset
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, write_fragments

from pipelines.encoders import encode_query
from pipelines.storage.addresses import absolute, sibling
from pipelines.storage.retry import retry_transient
from pipelines.storage.s3 import lance_options
from pipelines.tables.commits import compare_and_swap, create_dataset, ledger, open_dataset
from pipelines.tables.rotations import load_rotation
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.matryoshka import cut, unit
from pipelines.vectors.rotation import Rotation
from schemas.columns import (
    COMPANIONS,
    REJECTS,
    SHARDS,
    VECTOR,
    Space,
    check_companion,
    prefix_column,
    space_of,
    table_schema,
)
from schemas.config import StorageConfig
from schemas.errors import SpaceMismatch, TableExists
from schemas.records import LeaseResult, Shard

MAX_ROWS_PER_FRAGMENT = 1 << 20
_PROBES = 20  # partitions of an index that a search looks into; Lance's own default finds a twentieth fewer


@dataclass(frozen=True)
class CommitResult:
    """What one commit did.

    Attributes:
        shards: Shards that are in the table now and were not before.
        rows: Their rows.
        rejects: Their rejected samples.
        redo: Shards to embed again: they were leased together with one that another run landed first.
        version: Version of the table afterwards.
    """

    shards: int = 0
    rows: int = 0
    rejects: int = 0
    redo: tuple[Shard, ...] = ()
    version: int = 0


@dataclass(frozen=True)
class _Claims:
    """What of a batch of results is still to land, seen from one version of the ledger."""

    fresh: list[LeaseResult] = field(default_factory=list)
    redo: list[Shard] = field(default_factory=list)
    stale: set[int] = field(default_factory=set)


class VectorTable:
    """Vectors of one space, one row per sample: `id, shard, <kept columns>, vector, vector_<dim>…`.

    Example:
        >>> VectorTable.open("lake/news.lance").search("football", k=3)  # doctest: +SKIP
    """

    def __init__(self, uri: str, dataset: LanceDataset, storage: StorageConfig) -> None:
        """Wrap an open dataset; use `open` or `create`."""
        self.uri, self.dataset, self.storage = uri, dataset, storage
        self.space: Space = space_of(dataset.schema, uri)

    @classmethod
    def open(cls, uri: str, version: int | str | None = None, storage: StorageConfig = StorageConfig()) -> VectorTable:
        """Open a table, at a version number or a tag such as `prod`, or as it is now.

        Raises:
            TableNotFound: Nothing is at that address, or it has no such version.
            TableError: It is a Lance table, but was not made by this project.
        """
        uri = absolute(uri)
        return cls(uri, open_dataset(uri, storage, version), storage)

    @classmethod
    def create(cls, uri: str, space: Space, kept: pa.Schema, storage: StorageConfig = StorageConfig()) -> VectorTable:
        """Create an empty table and its companions. Of several racing creators exactly one succeeds.

        Raises:
            TableExists: Something is at that address already.
        """
        uri = absolute(uri)
        for suffix, companion in COMPANIONS.items():
            with contextlib.suppress(TableExists):
                retry_transient(uri, partial(create_dataset, sibling(uri, suffix), companion, storage))
        dataset = retry_transient(uri, partial(create_dataset, uri, table_schema(space, kept), storage))
        return cls(uri, dataset, storage)

    def check_space(self, space: Space) -> None:
        """Refuse vectors of another space.

        Raises:
            SpaceMismatch: The message names every setting that differs.
        """
        if space.fingerprint == self.space.fingerprint:
            return
        ours, theirs = self.space.model_dump(), space.model_dump()
        differing = ", ".join(f"{k}: table {ours[k]!r}, asked {theirs[k]!r}" for k in ours if ours[k] != theirs[k])
        raise SpaceMismatch(
            f"{self.uri} holds vectors of space {self.space.fingerprint}, not {space.fingerprint} ({differing}); "
            "use the table's own settings, or write to another table"
        )

    @property
    def kept(self) -> pa.Schema:
        """Fields of the kept columns."""
        return pa.schema(
            [f for f in self.dataset.schema if f.name not in ("id", "shard") and not f.name.startswith(VECTOR)]
        )

    @property
    def prefix_dims(self) -> tuple[int, ...]:
        """Dims that have a prefix column of their own, ascending."""
        names = (f.name.removeprefix(f"{VECTOR}_") for f in self.dataset.schema if f.name.startswith(f"{VECTOR}_"))
        return tuple(sorted(int(name) for name in names if name.isdigit()))

    @cached_property
    def rotation(self) -> Rotation | None:
        """The rotation that the table's vectors went through, if any."""
        fingerprint = self.space.rotation
        return load_rotation(fingerprint, self.uri, self.storage) if fingerprint else None

    def refresh(self) -> VectorTable:
        """Return the table as it is now."""
        return VectorTable.open(self.uri, storage=self.storage)

    def companion(self, suffix: str) -> LanceDataset:
        """Open `<table>.<suffix>.lance`, for example `rejects` or `shards`."""
        uri = sibling(self.uri, suffix)
        dataset = open_dataset(uri, self.storage, None)
        check_companion(dataset.schema, COMPANIONS[suffix], uri)
        return dataset

    def done_shards(self) -> set[int]:
        """Return the identities of all shards that have landed.

        One that gave no rows is among them, unless rows of another content of the same file are still to leave.
        """
        held = ledger(self.dataset)
        records = self.companion("shards").to_table(columns=["shard", "uri", "rows"])
        occupied = records.filter(pc.is_in(records["shard"], pa.array(held, pa.int64())))["uri"].combine_chunks()
        is_empty = pc.and_not(pc.equal(records["rows"], 0), pc.is_in(records["uri"], occupied))
        return held | set(records.filter(is_empty)["shard"].to_pylist())

    def write_fragments(self, batches: Iterable[pa.RecordBatch]) -> tuple[str, ...]:
        """Write rows that nobody sees until they land; prefix columns that the table has are cut on the way.

        Args:
            batches: Columns `id, shard, <kept>, vector` in the table's order, streamed; memory is bounded by one batch.

        Returns:
            JSON of the new fragments, for `LeaseResult.fragments`.

        Raises:
            OSError: The store refuses: full, out of reach, or not allowed. An error of `batches` is raised as it is.
        """
        prefixes = [prefix_column(dim) for dim in self.prefix_dims]
        # Columns under other names are prefixes still being filled; `jobs shortlist` cuts them for these rows as well.
        known = {"id", "shard", *self.kept.names, VECTOR, *prefixes}
        schema = pa.schema([f for f in self.dataset.schema if f.name in known], self.dataset.schema.metadata)
        source = _Source(self._with_prefixes(batches, schema))
        try:
            written = write_fragments(
                pa.RecordBatchReader.from_batches(schema, source),
                self.dataset,
                schema=schema,
                max_rows_per_file=MAX_ROWS_PER_FRAGMENT,
                storage_options=lance_options(self.storage),
            )
        except OSError as error:
            raise source.error or error from None
        return tuple(json.dumps(fragment.to_json()) for fragment in written)

    def commit(self, results: Sequence[LeaseResult], run: str, *, replace: bool = False) -> CommitResult:
        """Make the rows of finished leases visible, each shard exactly once, whoever else is landing.

        Rejects and the shards' records land first; then one compare-and-swap commit brings the new rows and takes away
        those of the shards' older contents. A lease of which another run has landed a shard is dropped whole.

        Args:
            results: Finished leases.
            run: Id of the run, kept for the audit.
            replace: Land also shards that are in the table, in place of their rows.

        Raises:
            SpaceMismatch: The table was rotated since it was opened, so the rows are of a space that it has left.
        """
        while True:
            dataset = open_dataset(self.uri, self.storage, None)
            VectorTable(self.uri, dataset, self.storage).check_space(self.space)
            claims = self._claim(dataset, results, replace)
            landed = [count for result in claims.fresh for count in result.counts]
            if landed:
                fragments = [FragmentMetadata.from_json(text) for r in claims.fresh for text in r.fragments]
                try:
                    self._record(claims.fresh, claims.stale, run)
                    if fragments or claims.stale:
                        dataset = compare_and_swap(dataset, fragments, claims.stale, run, lance_options(self.storage))
                except CommitConflictError:
                    continue
            self.dataset = dataset
            return CommitResult(
                shards=len(landed),
                rows=sum(count.rows for count in landed),
                rejects=sum(count.rejects for count in landed),
                redo=tuple(claims.redo),
                version=dataset.version,
            )

    def encode_query(self, query: str | bytes | npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Bring a query into the table's space: (D,) float32, unit length.

        Args:
            query: Words, the bytes of an image, or a vector of the table's space at full width.

        Raises:
            SpaceMismatch: The vector has another width, or the space's encoder cannot take such a query.
        """
        if isinstance(query, np.ndarray):
            if query.shape != (self.space.ladder.width,):
                raise SpaceMismatch(
                    f"the query has shape {query.shape}; {self.uri} holds vectors of {self.space.ladder.width} dims"
                )
            return unit(query.astype(np.float32))
        vector_D = encode_query(self.space, query)
        return vector_D if self.rotation is None else self.rotation.apply(vector_D)

    def search(
        self,
        query: str | bytes | npt.NDArray[np.floating],
        k: int = 10,
        dims: int | None = None,
        where: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the k rows nearest to a query by the first `dims` dims.

        A prefix column is searched through its index where it has one; without a prefix column the full vectors are
        scanned and cut.

        Args:
            query: Words, the bytes of an image, or a vector (D,).
            k: Rows wanted.
            dims: A rung of the space's ladder; None is the full width.
            where: SQL over the table's columns; only rows that satisfy it are searched.
            columns: Columns to return beside `score`; default `id` and the kept ones.

        Returns:
            Columns `id, <kept>, score`: cosine at `dims` in float32, best first; ties by id.

        Raises:
            DimError: The space must not be cut there.
            SpaceMismatch: The query is not of the table's space.
        """
        width = self.space.ladder.width
        dims = self.space.ladder.check(dims or width, self.uri)
        query_M = cut(self.encode_query(query), dims)
        wanted = list(columns) if columns is not None else ["id", *self.kept.names]
        column = VECTOR if dims == width else prefix_column(dims)
        if self._has_everywhere(column):
            nearest = {
                "column": column,
                "q": query_M,
                "k": k,
                "metric": "cosine",
                "refine_factor": 1,
                "minimum_nprobes": _PROBES,
            }
            best = self._fetch([*wanted, column, "_distance"], nearest=nearest, filter=where, prefilter=True)
            best = best.append_column("score", _scores(best[column], query_M))
        else:
            found = self._scan(query_M, k, where)
            score_of = dict(zip(found["_rowid"].to_pylist(), found["score"].to_pylist(), strict=True))
            best = self._fetch([*wanted, "_rowid"], filter=f"_rowid IN ({', '.join(map(str, score_of)) or 'NULL'})")
            best = best.append_column(
                "score", pa.array([score_of[r] for r in best["_rowid"].to_pylist()], pa.float32())
            )
        return best.sort_by([("score", "descending"), ("id", "ascending")]).select([*wanted, "score"])

    def _has_everywhere(self, column: str) -> bool:
        """Say whether every fragment holds a column; one that landed while a prefix was being added may lack it."""
        ids = {field.name(): field.id() for field in self.dataset.lance_schema.fields()}
        if column not in ids:
            return False
        fragments = self.dataset.get_fragments()
        return all(any(ids[column] in file.fields for file in fragment.data_files()) for fragment in fragments)

    def _fetch(self, columns: Sequence[str], **query: Any) -> pa.Table:
        """Scan for columns, `id` among them."""
        return self.dataset.scanner(columns=list(dict.fromkeys(["id", *columns])), **query).to_table()

    def _scan(self, query_M: npt.NDArray[np.float32], k: int, where: str | None) -> pa.Table:
        """Return `id, _rowid, score` of the k best rows by a prefix that has no column of its own."""
        best = pa.table(
            {"id": pa.array([], pa.string()), "_rowid": pa.array([], pa.uint64()), "score": pa.array([], pa.float32())}
        )
        for batch in self.dataset.scanner(columns=["id", "_rowid", VECTOR], filter=where).to_batches():
            scored = pa.Table.from_batches([batch]).append_column("score", _scores(batch[VECTOR], query_M))
            both = pa.concat_tables([best, scored.select(best.column_names)], promote_options="permissive")
            best = both.sort_by([("score", "descending"), ("id", "ascending")]).slice(0, k)
        return best

    def _claim(self, dataset: LanceDataset, results: Sequence[LeaseResult], replace: bool) -> _Claims:
        done = ledger(dataset)
        claims, claimed = _Claims(), set[int]()
        for result in results:
            ids = {count.shard.id for count in result.counts}
            taken = claimed & ids if replace else (claimed | done) & ids
            if taken:
                claims.redo.extend(c.shard for c in result.counts if c.shard.id not in taken | done)
                continue
            claimed |= ids
            claims.fresh.append(result)
        uris = [count.shard.uri for result in claims.fresh for count in result.counts]
        known = self.companion("shards").to_table(columns=["shard", "uri"])
        same_uri = known.filter(pc.is_in(known["uri"], pa.array(uris, pa.string())))["shard"]
        claims.stale.update(done & set(same_uri.to_pylist()))
        return claims

    def _record(self, results: Sequence[LeaseResult], stale: set[int], run: str) -> None:
        """Upsert what the shards gave and what was rejected; doing it twice changes nothing."""
        now = dt.datetime.now(dt.UTC)
        counts = [count for result in results for count in result.counts]
        uris = {count.shard.id: count.shard.uri for count in counts}
        rejects = {
            (reject.shard, reject.position): {**vars(reject), "uri": uris[reject.shard], "run": run}
            for result in results
            for reject in result.rejects
        }
        shards = [
            {
                "shard": c.shard.id,
                "uri": c.shard.uri,
                "size": c.shard.size,
                "etag": c.shard.etag,
                "rows": c.rows,
                "rejects": c.rejects,
                "run": run,
                "landed_at": now,
            }
            for c in counts
        ]
        gone = ", ".join(map(str, stale | set(uris)))
        table = self.companion("rejects")
        if rejects or table.count_rows(f"shard IN ({gone})"):
            upsert = table.merge_insert(["shard", "position"]).when_matched_update_all().when_not_matched_insert_all()
            upsert.when_not_matched_by_source_delete(f"shard IN ({gone})").execute(
                pa.Table.from_pylist([*rejects.values()], schema=REJECTS)
            )
        upsert = self.companion("shards").merge_insert("shard").when_matched_update_all().when_not_matched_insert_all()
        upsert.execute(pa.Table.from_pylist(shards, schema=SHARDS))

    def _with_prefixes(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        dims = self.prefix_dims
        for batch in batches:
            columns = {name: batch.column(name) for name in batch.schema.names}
            if dims:
                full_BD = to_numpy(columns[VECTOR])
                columns |= {f"{VECTOR}_{dim}": to_arrow(cut(full_BD, dim)) for dim in dims}
            yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


class _Source:
    """Remembers the error of a stream that Lance pulls, since Lance would pass on its text only."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except BaseException as error:
            self.error = error
            raise


def _scores(vectors: pa.Array | pa.ChunkedArray, query_M: npt.NDArray[np.float32]) -> pa.Array:
    """Cosines of the vectors' prefixes with a unit prefix, in float32."""
    return pa.array(cut(to_numpy(vectors).astype(np.float32), len(query_M)) @ query_M, pa.float32())
