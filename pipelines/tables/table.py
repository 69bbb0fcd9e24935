"""VectorTable: open a Lance table of one space and search it. Everything here only reads, except `create_table`.

Owns what a table is: its companions, its columns, its space, and a search without an index of one's own. Owns no writes
(`ledger.py` and its neighbours). Opening a table, and searching it by a vector, loads neither torch nor an encoder; a
search by words or by an image loads both at its first use.

Shapes: D full width, M prefix width.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance import LanceDataset

from pipelines.storage.addresses import absolute
from pipelines.tables.commits import create_dataset, open_dataset
from pipelines.tables.companions import ensure_companion, id_of, open_companion
from pipelines.tables.publication_log import resolve_prod
from pipelines.tables.rotations import load_rotation
from pipelines.tables.rows import ROW_ID, check_columns, has_everywhere, places_of, read_rows, row_ids, scan_vectors
from pipelines.vectors.arrays import Floats, to_numpy
from pipelines.vectors.matryoshka import are_unit, cut, unit
from pipelines.vectors.rotation import Rotation
from schemas.column_names import column_name_problem
from schemas.columns import (
    COMPANIONS,
    TABLE_KEY,
    VECTOR,
    Space,
    TableSource,
    prefix_column,
    source_of,
    space_of,
    table_schema,
)
from schemas.config import StorageConfig, TrustConfig
from schemas.errors import InputError, SpaceMismatch, TableError, TableNotFound
from schemas.publications import PROD, Publication

_PROBES = 20  # partitions of an index that a search looks into; Lance's own default finds a twentieth fewer


class VectorTable:
    """Vectors of one space, one row per sample: `id, shard, <kept columns>, vector, vector_<dim>…`.

    Attributes:
        uri: Absolute address.
        dataset: The Lance dataset, at one version.
        storage: Where S3 is.
        trust: What a query in words may load.
        space: The space of all vectors.
        publication: The publication that was opened; None for a version that was named otherwise.

    Example:
        >>> VectorTable.open("lake/news.lance").search("football", k=3)  # doctest: +SKIP
    """

    def __init__(
        self, uri: str, dataset: LanceDataset, storage: StorageConfig, *, trust: TrustConfig = TrustConfig()
    ) -> None:
        """Wrap an open dataset; use `open`.

        Raises:
            TableError: The dataset was not made by this project.
        """
        self.uri, self.dataset, self.storage, self.trust = uri, dataset, storage, trust
        self.space: Space = space_of(dataset.schema, uri)
        self.publication: Publication | None = None

    @classmethod
    def open(
        cls,
        uri: str,
        version: int | str | None = None,
        storage: StorageConfig = StorageConfig(),
        *,
        trust: TrustConfig = TrustConfig(),
    ) -> VectorTable:
        """Open a table at its newest version, at a version number, at a tag, or at `prod`: what is published.

        What `prod` names is looked up once: the table that is returned stays at that generation and version, through
        later publications, compaction and cleaning. Where nothing was published, a Lance tag `prod` is opened.

        A table may come from a stranger: opening and searching it runs no code from it and reads no file it names. To
        search it in words where its encoder needs either, name them in `trust`.

        Raises:
            TableNotFound: There is nothing at that address, or it has no such version.
            TableError: It is a Lance table, but was not made by this project.
        """
        uri = absolute(uri)
        if version == PROD and (published := resolve_prod(uri, storage)) is not None:
            table = cls(
                published.uri, open_dataset(published.uri, storage, published.state.version), storage, trust=trust
            )
            if (table.table_id, table.space.fingerprint) != (published.state.table_id, published.state.space):
                raise TableError(
                    f"{published.uri} is another table than the one that publication {published.publication.number} "
                    f"names; publish it anew: mlake publish {uri}"
                )
            table.publication = published.publication
            return table
        try:
            return cls(uri, open_dataset(uri, storage, version), storage, trust=trust)
        except TableNotFound as error:
            raise TableNotFound(f"{error}; nothing is published there") from None if version == PROD else error

    def __repr__(self) -> str:
        """Return one paragraph: the address and version, the rows, the space, and the columns that can be asked for."""
        dims = [f"{dim} of {self.space.ladder.width} dims" for dim in self.prefix_dims]
        rotated = ", rotated" if self.space.rotation is not None else ""
        return (
            f"<VectorTable {self.uri}, version {self.dataset.version}: {self.dataset.count_rows():,} rows of "
            f"{self.space.encoder}{rotated}, which may be cut to {self.space.ladder}; prefix columns: "
            f"{', '.join(dims) or 'none'}; kept columns: {', '.join(self.kept.names) or 'none'}>"
        )

    def check_space(self, space: Space) -> None:
        """Refuse vectors of another space.

        Raises:
            SpaceMismatch: The spaces differ; the message names every setting that does.
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
    def result_columns(self) -> list[str]:
        """The columns that a search returns by default: `id` and the kept ones, save those it has names of its own for.

        The first release let a column `score` be kept, and another tool may add one.
        """
        return ["id", *(name for name in self.kept.names if column_name_problem(name) is None)]

    @cached_property
    def source(self) -> TableSource | None:
        """What the rows are made from; None where the table does not say it."""
        return source_of(self.dataset.schema, self.uri)

    @property
    def prefix_dims(self) -> tuple[int, ...]:
        """Dims that have a prefix column of their own, ascending."""
        names = (f.name.removeprefix(f"{VECTOR}_") for f in self.dataset.schema if f.name.startswith(f"{VECTOR}_"))
        return tuple(sorted(int(name) for name in names if name.isdigit()))

    @cached_property
    def rotation(self) -> Rotation | None:
        """The rotation that was applied to the table's vectors, if any."""
        fingerprint = self.space.rotation
        if fingerprint is None:
            return None
        rotation, width = load_rotation(fingerprint, self.uri, self.storage), self.space.ladder.width
        if len(rotation.matrix_DD) != width:
            raise TableError(f"{self.uri} holds {width} dims, and its rotation {fingerprint} is of another width")
        return rotation

    @property
    def table_id(self) -> str:
        """The id by which companions belong to the table; empty for a table of the first release."""
        return id_of(self.dataset.schema)

    def refresh(self) -> VectorTable:
        """Return the table at its newest version."""
        return VectorTable.open(self.uri, storage=self.storage, trust=self.trust)

    def companion(self, suffix: str) -> LanceDataset:
        """Open a companion, `<table>.<suffix>.lance`.

        Args:
            suffix: `shards` (what each shard gave), `rejects` (what was not embedded, and why) or `runs` (the journal).

        Raises:
            TableNotFound: It is not beside the table, or belongs to another one, such as a deleted table of that name.
            TableError: It is of a newer format, or malformed.
        """
        return open_companion(self, suffix)

    def encode_query(self, query: str | bytes | npt.NDArray[np.floating]) -> Floats:
        """Bring a query into the table's space: (D,) float32, unit length.

        Args:
            query: Words, the bytes of an image, or a vector of the table's space at full width.

        Raises:
            SpaceMismatch: The vector has another width, or the space's encoder cannot take such a query.
            EncoderNotTrusted: The space's encoder needs files or code that `trust` does not allow.
            InputError: The vector is all zeros, or holds NaN or infinity.
        """
        if isinstance(query, np.ndarray):
            if query.shape != (self.space.ladder.width,):
                raise SpaceMismatch(
                    f"the query has shape {query.shape}; {self.uri} holds vectors of {self.space.ladder.width} dims"
                )
            if not are_unit(unit_D := unit(query.astype(np.float64)).astype(np.float32)):
                raise InputError("the query has no direction: it is all zeros, or holds NaN or infinity; pass another")
            return unit_D
        from pipelines.encoders.query import encode_query  # here, since it loads torch

        vector_D = encode_query(self.space, query, self.trust)
        return vector_D if self.rotation is None else self.rotation.apply(vector_D)

    def search(
        self,
        query: str | bytes | npt.NDArray[np.floating],
        k: int = 10,
        dim: int | None = None,
        where: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the k rows nearest to a query by the first `dim` dims.

        A prefix column is searched, through its index if it has one. Without a prefix column the full vectors are
        scanned and cut. At the full width every row is compared, whatever index another tool has built.

        Args:
            query: Words, the bytes of an image, or a vector (D,).
            k: Rows wanted.
            dim: A rung of the space's ladder; None is the full width.
            where: SQL over the table's columns; only rows that satisfy it are searched.
            columns: Columns to return beside `score`; default `id` and the kept ones.

        Returns:
            Columns `id, <kept>, score`: cosine at `dim` in float32, best first; ties by id.

        Raises:
            DimError: The space must not be cut there.
            SpaceMismatch: The query is not of the table's space.
            TableError: `k` is below 1, or a column cannot be returned.
        """
        width = self.space.ladder.width
        dim = self.space.ladder.check(width if dim is None else dim, self.uri)
        check_columns(self.dataset, columns, self.uri)
        if k < 1:
            raise TableError(f"k={k}: ask for 1 row or more")
        query_M = cut(self.encode_query(query), dim)
        wanted = list(columns) if columns is not None else self.result_columns
        column = VECTOR if dim == width else prefix_column(dim)
        if has_everywhere(self.dataset, column):
            best = self._nearest(column, query_M, k, where, wanted)
        else:
            best = self._scan(query_M, k, where, wanted)
        return best.sort_by([("score", "descending"), ("id", "ascending")]).select([*wanted, "score"])

    def _nearest(self, column: str, query_M: Floats, k: int, where: str | None, wanted: Sequence[str]) -> pa.Table:
        """Have Lance search a column: a prefix through its index, the full vectors without one, since that is exact."""
        nearest: dict[str, Any] = {"column": column, "q": query_M, "k": k, "metric": "cosine"}
        if column == VECTOR:
            nearest["use_index"] = False
        else:
            nearest |= {"refine_factor": 1, "minimum_nprobes": _PROBES}
        names = list(dict.fromkeys(["id", *wanted, column, "_distance"]))
        best = self.dataset.scanner(columns=names, nearest=nearest, filter=where, prefilter=True).to_table()
        return best.append_column("score", _scores(best[column], query_M))

    def _scan(self, query_M: Floats, k: int, where: str | None, wanted: Sequence[str]) -> pa.Table:
        """Compare the prefix of every full vector."""
        best = pa.table(
            {"id": pa.array([], pa.string()), ROW_ID: pa.array([], pa.uint64()), "score": pa.array([], pa.float32())}
        )
        for batch, x_BD in scan_vectors(self.dataset, ["id", ROW_ID], where):
            scores = pa.array(cut(x_BD.astype(np.float32), len(query_M)) @ query_M, pa.float32())
            scored = pa.Table.from_batches([batch]).append_column("score", scores)
            both = pa.concat_tables([best, scored.select(best.column_names)], promote_options="permissive")
            best = both.sort_by([("score", "descending"), ("id", "ascending")]).slice(0, k)
        rows_K = row_ids(best)
        found = read_rows(self.dataset, rows_K, ["id", *wanted])
        return found.take(places_of(found, rows_K)).append_column("score", best["score"])


def create_table(
    uri: str,
    space: Space,
    kept: pa.Schema,
    storage: StorageConfig = StorageConfig(),
    *,
    source: TableSource | None = None,
) -> VectorTable:
    """Create an empty table with a new id, then its companions. Of several racing creators exactly one succeeds.

    Args:
        uri: Address of the table.
        space: The space of all its vectors.
        kept: Fields of the columns that are kept from the samples.
        storage: Where S3 is.
        source: What the rows are made from, where it is known.

    Raises:
        TableExists: There is something at that address already.
    """
    uri, schema = absolute(uri), table_schema(space, kept, source)
    schema = schema.with_metadata({**schema.metadata, TABLE_KEY: uuid.uuid4().hex.encode()})
    table = VectorTable(uri, create_dataset(uri, schema, storage), storage)
    for suffix in COMPANIONS:
        ensure_companion(table, suffix)
    return table


def _scores(vectors: pa.Array | pa.ChunkedArray, query_M: Floats) -> pa.Array:
    """Cosines of the vectors' prefixes with a unit prefix, in float32."""
    return pa.array(cut(to_numpy(vectors).astype(np.float32), len(query_M)) @ query_M, pa.float32())
