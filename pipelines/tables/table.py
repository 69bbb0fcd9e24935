"""VectorTable: open a Lance table of one space and search it. Everything here only reads.

Owns what a table is: its companions, its columns, its space, and how it is asked. Owns no writes (`ledger.py` and its
neighbours). Opening a table, and searching it by a vector, loads neither torch nor an encoder; a search by words or by
an image loads both at its first use.

Shapes: D full width, M prefix width.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
from lance import LanceDataset

from pipelines.tables.companions import id_of, open_companion
from pipelines.tables.grouping import best_of_each, concatenate_answers
from pipelines.tables.hits import QUERY, Hits
from pipelines.tables.nearest import nearest_rows
from pipelines.tables.opening import Version, open_dataset, read_address
from pipelines.tables.publication_log import resolve_prod
from pipelines.tables.queries import Asked, Query, check_count, check_search, read_query, read_question, unit_query
from pipelines.tables.rotations import load_rotation
from pipelines.tables.rows import check_columns, using_filter
from pipelines.vectors.arrays import Floats
from pipelines.vectors.matryoshka import cut
from pipelines.vectors.rotation import Rotation
from schemas.column_names import column_name_problem
from schemas.columns import VECTOR, Space, prefix_dims, space_of
from schemas.config import StorageConfig, TrustConfig, check_given
from schemas.errors import InputError, SpaceMismatch, TableError, TableNotFound
from schemas.html import facts, one_line
from schemas.publications import PROD, Publication
from schemas.source import TableSource, source_of


class VectorTable:
    """Vectors of one space, one row per sample: `id, shard, <kept columns>, vector, vector_<dim>…`.

    Attributes:
        uri: Absolute address.
        dataset: The Lance dataset, at one version.
        storage: Where S3 is.
        trust: What a query in words may load.
        space: The space of all vectors.
        publication: The publication that was opened; None for a version that was named otherwise.
        is_pinned: A version was named, so that `refresh` and a funnel stay at it.

    Example:
        >>> table = VectorTable.open("lake/demo/glosses.lance").refresh()  # `make demo` makes it
        >>> table.check_space(VectorTable.open("lake/demo/news.lance").space)
        >>> table.encode_query("fear of closed spaces"), table.companion("shards").count_rows()
    """

    def __init__(
        self, uri: str, dataset: LanceDataset, storage: StorageConfig, *, trust: TrustConfig = TrustConfig()
    ) -> None:
        """Wrap an open dataset; use `open`. TableError: it was not made by this project; ConfigError: it is none."""
        check_given(LanceDataset, dataset=dataset)
        self.uri, self.dataset, self.storage, self.trust = uri, dataset, storage, trust
        self.space: Space = space_of(dataset.schema, uri)
        self.publication: Publication | None = None
        self.is_pinned = False

    @classmethod
    def open(
        cls,
        uri: str | os.PathLike[str],
        version: Version | None = None,
        storage: StorageConfig = StorageConfig(),
        *,
        trust: TrustConfig = TrustConfig(),
    ) -> VectorTable:
        """Open a table at its newest version, a version number, a tag, a time, or at `prod`: what is published.

        What `prod` names is looked up once: the table that is returned stays at that generation and version, through
        later publications, compaction and cleaning. Where nothing was published, a Lance tag `prod` is opened. A time
        opens the newest version that was there then.

        A table may come from a stranger: opening and searching it runs no code from it and reads no file it names. To
        search it in words where its encoder needs either, name them in `trust`.

        Raises:
            TableNotFound: There is nothing at that address, or it has no such version.
            TableError: It is a Lance table, but was not made by this project.
            InputError: `uri` is no address, or `version` neither a number, a tag nor a time.

        Example:
            >>> VectorTable.open("lake/demo/glosses.lance", 1)  # or a tag, a datetime, "prod"
        """
        uri = read_address(uri, storage, trust)
        if isinstance(version, str) and version == PROD and (published := resolve_prod(uri, storage)) is not None:
            dataset = open_dataset(published.uri, storage, published.state.version)
            table = cls(published.uri, dataset, storage, trust=trust)
            if (table.table_id, table.space.fingerprint) != (published.state.table_id, published.state.space):
                raise TableError(
                    f"{published.uri} is another table than the one that publication {published.publication.number} "
                    f"names; publish it anew: mlake publish {uri}"
                )
            table.publication, table.is_pinned = published.publication, True
            return table
        try:
            table = cls(uri, open_dataset(uri, storage, version), storage, trust=trust)
        except TableNotFound as error:
            if version != PROD:
                raise
            raise TableNotFound(f"{error}; nothing is published there") from None
        table.is_pinned = version is not None
        return table

    def __repr__(self) -> str:
        """Return one paragraph: the address and version, the rows, the space, and the columns that can be asked for."""
        return one_line("VectorTable", self._facts())

    def _repr_html_(self) -> str:
        return facts(self.name, self._facts())

    def _facts(self) -> dict[str, str]:
        space, published = self.space, self.publication
        return {
            "address": self.uri,
            "version": f"{self.dataset.version}{'' if published is None else f', publication {published.number}'}",
            "rows": f"{len(self):,}",
            "space": f"{space.encoder_name}{', rotated' if space.rotation is not None else ''}, {space.fingerprint}",
            "may be cut to": str(space.ladder),
            "prefix columns": ", ".join(f"{dim} of {space.ladder.width} dims" for dim in self.prefix_dims) or "none",
            "kept columns": ", ".join(f"{field.name} ({field.type})" for field in self.kept) or "none",
        }

    def __len__(self) -> int:
        return int(self.dataset.count_rows())

    def __bool__(self) -> bool:
        """Return True: a table without rows is a table."""
        return True

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.uri.rpartition("/")[2]

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns, vectors included."""
        return self.dataset.schema

    @property
    def columns(self) -> list[str]:
        """Names of all columns, vectors included."""
        return list(self.dataset.schema.names)

    def check_space(self, space: Space) -> None:
        """Refuse vectors of another space.

        Raises:
            SpaceMismatch: The spaces differ; the message names every setting that does.
            ConfigError: `space` is no space; that of another table is `other.space`.
        """
        check_given(Space, space=space)
        if self.space.is_comparable(space):
            return
        ours, theirs = self.space.model_dump(), space.model_dump()
        differing = ", ".join(f"{k}: table {ours[k]!r}, asked {theirs[k]!r}" for k in ours if ours[k] != theirs[k])
        raise SpaceMismatch(
            f"{self.uri} holds vectors of space {self.space.fingerprint}, not {space.fingerprint} ({differing}); "
            "use the table's own settings, or write to another table",
            differing,
        )

    @property
    def kept(self) -> pa.Schema:
        """Fields of the kept columns."""
        fields = (field for field in self.dataset.schema if not field.name.startswith(VECTOR))
        return pa.schema(field for field in fields if field.name not in ("id", "shard"))

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
        return prefix_dims(self.dataset.schema.names)

    @cached_property
    def rotation(self) -> Rotation | None:
        """The rotation that was applied to the table's vectors, if any."""
        if (fingerprint := self.space.rotation) is None:
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
        """Return the table at its newest version; one that was opened at a version stays at it."""
        return self if self.is_pinned else VectorTable.open(self.uri, storage=self.storage, trust=self.trust)

    def companion(self, suffix: str) -> LanceDataset:
        """Open a companion, `<table>.<suffix>.lance`.

        Args:
            suffix: `shards` (what each shard gave), `rejects` (what was not embedded, and why) or `runs` (the journal).

        Raises:
            TableNotFound: It is not beside the table, or belongs to another one, such as a deleted table of that name.
            TableError: It is of a newer format, or malformed.
        """
        return open_companion(self, suffix)

    def encode_query(self, query: Query) -> Floats:
        """Bring a query into the table's space: (D,) float32, unit length.

        Args:
            query: Words, an image, or a vector of the table's space at full width; see `search`.

        Raises:
            SpaceMismatch: The vector has another width, or the space's encoder cannot take such a query.
            EncoderNotTrusted: The space's encoder needs files or code that `trust` does not allow.
            InputError: The vector is all zeros, or holds NaN or infinity, or the query is none of the forms.
        """
        asked, width = read_query(query), self.space.ladder.width
        if isinstance(asked, np.ndarray) and asked.shape == (width,):
            return unit_query(asked)
        if isinstance(asked, np.ndarray):
            raise SpaceMismatch(
                f"the query has shape {asked.shape}; {self.uri} holds vectors of {width} dims, and its `search` also "
                f"takes a vector that was cut to {self.space.ladder} dims"
            )
        from pipelines.encoders.query import encode_query  # here, since it loads torch

        vector_D = encode_query(self.space, asked, self.trust)
        return vector_D if self.rotation is None else self.rotation.apply(vector_D)

    def search(
        self,
        query: Query = None,
        k: int = 10,
        dim: int | None = None,
        where: str | None = None,
        columns: Iterable[str] | None = None,
        *,
        like: str | None = None,
        group_by: str | None = None,
        distinct: bool = False,
    ) -> Hits:
        """Return the k rows nearest to a query, or to each of several, by the first `dim` dims.

        A prefix column is searched, through its index if it has one. Without a prefix column the full vectors are
        scanned and cut. At the full width every row is compared, whatever index another tool has built.

        Args:
            query: Words; an image as a `Path`, as bytes or from PIL; or a vector (D,) as a list, or of numpy, torch or
                Arrow. A vector of fewer dims, as wide as a rung of the ladder, is searched at these. A list of these,
                or vectors (B, D), are several queries.
            k: Rows wanted per query.
            dim: A rung of the space's ladder; None is the full width.
            where: SQL over the table's columns; only rows that satisfy it are searched. NaN is above every number, so
                `f > 5` holds where f is NaN.
            columns: Columns to return beside `score`; default `id` and the kept ones.
            like: Id of a row, in place of a query: the rows most like it, without itself.
            group_by: Column; of the rows with one value of it only the best is returned.
            distinct: Return rows whose vectors are equal, such as copies of a picture, once.

        Returns:
            Columns `id, <kept>, score`: cosine at `dim` in float32, best first; ties by id, at the k-th row as well
            unless a prefix column is searched. For several queries, a first column `query` holds the query's number.

        Raises:
            DimError: The space must not be cut there.
            SpaceMismatch: A query is not of the table's space.
            InputError: A query is none of the forms, there are both a query and `like`, or neither, or `k` is no whole
                number.
            TableError: `k` is below 1, a column cannot be returned or grouped by, the filter cannot be used, or there
                is no row of that id, or several.

        Example:
            >>> hits = table.search("fear of closed spaces", k=3, dim=64, where="category = 'noun.state'")
            >>> table.search(["fear of closed spaces", "a small boat"], k=3)
            >>> table.search(like=hits[0]["id"], group_by="category", distinct=True)
        """
        k, names = check_search(self.dataset, self.uri, k, where, columns, group_by, distinct=distinct)
        question = read_question(self.dataset, self.uri, query, like)
        wanted = self.result_columns if names is None else names
        if len(searched := {self._searched_dims(one, dim) for one in question.queries}) > 1:
            both = " and ".join(map(str, sorted(searched)))
            raise InputError(f"the queries would be searched at {both} dims; pass dim={min(searched)} for all of them")

        def search_one(one: Asked) -> pa.Table:
            query_M, width = self._query_prefix(one, dim), self.space.ladder.width
            nearest = partial(nearest_rows, self.dataset, width, query_M, where=where, skip=question.skip)
            return best_of_each(nearest, k, wanted, group_by, distinct=distinct)

        with using_filter(self.dataset, where, self.uri):
            rows = concatenate_answers(map(search_one, question.queries))
        return Hits(rows.drop_columns(QUERY) if question.is_one else rows, f"{self.name}: {question.title}")

    def head(self, k: int = 5, columns: Iterable[str] | None = None) -> Hits:
        """Return the first rows: `id`, the kept columns, no vectors.

        Args:
            k: Rows wanted.
            columns: Columns to return; `vector` may be one of them.

        Raises:
            InputError: `k` is no whole number.
            TableError: `k` is below 0, or a column is not there.

        Example:
            >>> table.head(3, columns=["id", "words", "vector"])
        """
        asked = check_columns(self.dataset, columns, self.uri)
        names = ["id", *self.kept.names] if asked is None else asked
        rows = self.dataset.scanner(columns=names, limit=check_count(self.dataset, k, least=0)).to_table()
        return Hits(rows, f"{self.name}: the first {rows.num_rows} of {len(self):,} rows")

    def _searched_dims(self, query: Asked, dim: int | None) -> int:
        """Return the dims at which a query is searched: its own, if it is as short as a rung of the ladder."""
        ladder = self.space.ladder
        wanted = None if dim is None else ladder.check(dim, self.uri)
        if not isinstance(query, np.ndarray) or len(query) == ladder.width or len(query) not in ladder.dims:
            return wanted or ladder.width
        if wanted not in (None, len(query)):
            raise SpaceMismatch(f"dim={dim}, and the query has {len(query)} dims; leave `dim` out")
        return len(query)

    def _query_prefix(self, query: Asked, dim: int | None) -> Floats:
        """Encode a query and cut it; a vector may be as short as a rung of the ladder."""
        dims = self._searched_dims(query, dim)
        if isinstance(query, np.ndarray) and len(query) == dims:
            return unit_query(query)
        return cut(self.encode_query(query), dims)
