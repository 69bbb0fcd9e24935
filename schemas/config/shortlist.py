"""The config of `mlake shortlist`: prefix columns, their indexes, and shortlist tables."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.config.blocks import ClusterConfig, ConfigBlock, StorageConfig
from schemas.config.bounds import MAX_DIM, Bytes, Count, Dim, K


class PrefixIndexConfig(ConfigBlock):
    """How a prefix column is indexed.

    Attributes:
        type: `auto` decides by the table's size, and builds none for a small table; `none` builds none.
        partitions: Number of cells of the index; `auto` decides by the table's size.
        sub_vectors: Bytes of an IVF_PQ code; None is half the dim.
    """

    type: Literal["auto", "none", "IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ"] = "auto"
    partitions: Literal["auto"] | Annotated[Count, Field(le=1_000_000)] = "auto"
    sub_vectors: Annotated[Count, Field(le=MAX_DIM)] | None = None


class ExactConfig(ConfigBlock):
    """Arithmetic of the exact search. It does not change the result.

    Attributes:
        device: `auto` takes CUDA if there is a GPU.
        precision: Precision of the first scores, which select the rows to score exactly; `auto` takes the faster one on
            the device.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class ListsConfig(ConfigBlock):
    """A shortlist table: the exact K nearest of every query, at every dim.

    Attributes:
        queries: Table whose vectors are the queries; None is the searched table itself.
        table: Address of the shortlist table; None is `<table>.shortlist.lance`.
        dims: Prefix widths; empty is every dim of the ladder.
        k: Rows for each query at each dim.
        where: SQL that searched rows must satisfy.
        exclude_self: Leave out the row with the query's own id.
        memory_bytes: Peak memory of a worker process, whatever the sizes of the tables.
    """

    queries: str | None = None
    table: str | None = None
    dims: tuple[Dim, ...] = ()
    k: K = 100
    where: str | None = None
    exclude_self: bool = False
    memory_bytes: Bytes = 2 << 30


class ShortlistConfig(ConfigBlock):
    """Settings of `mlake shortlist`.

    Attributes:
        table: Table that gets prefix columns and is searched.
        dims: Prefix columns to add; None is every dim of the ladder below the full width.
        index: How the prefix columns are indexed.
        lists: Shortlist table to make or to update; None makes none.
        exact: Arithmetic of the shortlist table.
    """

    table: str
    dims: tuple[Dim, ...] | None = None
    index: PrefixIndexConfig = PrefixIndexConfig()
    lists: ListsConfig | None = None
    exact: ExactConfig = ExactConfig()
    cluster: ClusterConfig = ClusterConfig()
    storage: StorageConfig = StorageConfig()
