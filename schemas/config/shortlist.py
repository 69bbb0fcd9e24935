"""The config of `python -m jobs shortlist`: prefix columns, their indexes, and shortlist tables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.config.blocks import ClusterConfig, ConfigBlock, StorageConfig


class PrefixIndexConfig(ConfigBlock):
    """How a prefix column is indexed.

    Attributes:
        type: `auto` goes by the table's size, and leaves small tables to a plain scan; `none` builds none.
        partitions: Cells that the index divides the vectors into; `auto` goes by the table's size.
        sub_vectors: Bytes that IVF_PQ codes a vector in; None is half the dim.
    """

    type: Literal["auto", "none", "IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ"] = "auto"
    partitions: Literal["auto"] | int = "auto"
    sub_vectors: int | None = None


class ExactConfig(ConfigBlock):
    """Arithmetic of the exact search; none of it changes the result.

    Attributes:
        device: `auto` takes CUDA where there is a GPU.
        precision: Of the rough scores that choose the rows to score exactly; `auto` takes the quicker on the device.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class ListsConfig(ConfigBlock):
    """A shortlist table: the exact K nearest of every query, at every dim.

    Attributes:
        queries: Table whose vectors ask; None is the searched table itself.
        table: Where the lists go; None is `<table>.shortlist.lance`.
        dims: Prefix widths; empty is every rung of the ladder.
        k: Rows for each query at each dim.
        where: SQL that searched rows must satisfy.
        exclude_self: Leave out a row with the query's own id.
        memory_bytes: What a worker's process may hold at its peak, whatever the tables' sizes.
    """

    queries: str | None = None
    table: str | None = None
    dims: tuple[int, ...] = ()
    k: int = Field(100, ge=1, le=10_000)
    where: str | None = None
    exclude_self: bool = False
    memory_bytes: int = Field(2 << 30, ge=1)


class ShortlistConfig(ConfigBlock):
    """Settings of `python -m jobs shortlist`.

    Attributes:
        table: Table to give prefix columns, and to search.
        dims: Prefix columns to add; None is every rung below the full width.
        index: How the prefix columns are indexed.
        lists: A shortlist table to make or bring up to date; None makes none.
        exact: Arithmetic of the shortlist table.
    """

    table: str
    dims: tuple[int, ...] | None = None
    index: PrefixIndexConfig = PrefixIndexConfig()
    lists: ListsConfig | None = None
    exact: ExactConfig = ExactConfig()
    cluster: ClusterConfig = ClusterConfig()
    storage: StorageConfig = StorageConfig()
