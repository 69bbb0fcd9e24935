"""Lance indexes over prefix columns: chosen by size, built in segments by many workers, extended by what is new.

Owns when a prefix gets an index, of which type and with which parameters. Owns neither the columns (`prefixes.py`) nor
the search.

A build trains the partitions once. Each worker then indexes its own fragments into a segment, and one commit publishes
all segments. Rows added later are searched without an index until one more segment covers them.

Shapes: P partitions, M prefix width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from lance.dataset import Index
from lance.indices import IndicesBuilder

from pipelines.tables.commits import commit_index, extend_index
from pipelines.tables.table import VectorTable
from schemas.columns import prefix_column
from schemas.config import PrefixIndexConfig
from schemas.errors import TableError

# Measured at 200,000 x 64, 20 probes: 48 flat partitions of 4,096 rows build in 0.6 s and give recall@10 .99 at 5 ms;
# 447 partitions .85 at 4 ms; HNSW_SQ .94 at 4 ms after 25 s of building; brute force takes 21 ms.
_ROWS_OF_A_CODEBOOK = 512  # twice its 256 entries; Lance refuses fewer
_ROWS_WORTH_AN_INDEX = 20_000
_ROWS_PER_PARTITION = 4096
_ROWS_WORTH_QUANTISING = 20_000_000
_PQ_CODES = 256


@dataclass(frozen=True)
class IndexPlan:
    """An index that is to be built.

    Attributes:
        dim: Width of the prefix.
        type: Name of the index type in Lance.
        partitions: Number of partitions, P.
        fragments: Ids of the fragments to index.
        centroids_PM: Trained partition centres.
        sub_vectors: Number of codes that a product quantiser makes of a prefix; 0 for other types.
        codebook: Its trained centroids.
    """

    dim: int
    type: str
    partitions: int
    fragments: tuple[int, ...]
    centroids_PM: pa.FixedSizeListArray
    sub_vectors: int = 0
    codebook: pa.FixedSizeListArray | None = None

    @property
    def column(self) -> str:
        """The indexed column."""
        return prefix_column(self.dim)


def index_name(dim: int) -> str:
    """Name the index over a prefix."""
    return f"{prefix_column(dim)}_idx"


def index_prefix(table: VectorTable, dim: int, config: PrefixIndexConfig = PrefixIndexConfig()) -> VectorTable:
    """Bring the index of a prefix up to date in this process: build it, or add what was appended since.

    Args:
        table: A table with the column `vector_<dim>`.
        dim: Width of the prefix.
        config: Type and parameters; `auto` chooses by the table's size, and gives small tables no index.

    Returns:
        The table with its index.

    Raises:
        TableError: The table has no such prefix column.

    Example:
        >>> index_prefix(add_prefixes(table, [64]), 64)  # doctest: +SKIP
    """
    plan = plan_index(table, dim, config)
    if plan is None:
        return extend_prefix_index(table, dim)
    return publish_index(table, plan, [build_segment(table, plan, plan.fragments)])


def plan_index(table: VectorTable, dim: int, config: PrefixIndexConfig = PrefixIndexConfig()) -> IndexPlan | None:
    """Choose an index and train it once, or return None where there is nothing to build.

    There is nothing to build for a small table, or where an index of the chosen type exists and the table has not
    outgrown its partitions fourfold; `extend_prefix_index` then adds what is new.

    Raises:
        TableError: The table has no such prefix column.
    """
    column, dataset = prefix_column(dim), table.dataset
    if column not in dataset.schema.names:
        raise TableError(f"{table.uri} has no column {column}; run: mlake shortlist --set dims=[{dim}]")
    rows = dataset.count_rows()
    chosen = choose_index(rows, config)
    if chosen is None:
        return None
    kind, partitions = chosen
    if index_name(dim) in {index.name for index in dataset.describe_indices()}:
        built = dataset.stats.index_stats(index_name(dim))
        if built["index_type"] == kind and partitions <= 4 * built["indices"][0]["num_partitions"]:
            return None
    builder = IndicesBuilder(dataset, column)
    # k-means in Lance samples `sample_rate` rows a partition and refuses a rate that the table cannot serve.
    sample_rate = max(2, min(256, rows // partitions))
    ivf = builder.train_ivf(num_partitions=partitions, distance_type="cosine", sample_rate=sample_rate)
    fragments = tuple(fragment.fragment_id for fragment in dataset.get_fragments())
    plan = IndexPlan(dim, kind, partitions, fragments, ivf.centroids)
    if kind != "IVF_PQ":
        return plan
    rate = max(2, min(256, rows // _PQ_CODES))
    pq = builder.train_pq(ivf, num_subvectors=config.sub_vectors or dim // 2, sample_rate=rate)
    return replace(plan, sub_vectors=pq.num_subvectors, codebook=pq.codebook)


def choose_index(rows: int, config: PrefixIndexConfig = PrefixIndexConfig()) -> tuple[str, int] | None:
    """Return type and number of partitions for a table of `rows` rows, or None where a plain scan is fast enough.

    Raises:
        TableError: The type that the config names cannot be trained on so few rows.
    """
    if rows == 0 or config.type == "none" or (config.type == "auto" and rows < _ROWS_WORTH_AN_INDEX):
        return None
    kind = config.type
    if kind == "IVF_PQ" and rows < _ROWS_OF_A_CODEBOOK:
        raise TableError(
            f"index.type=IVF_PQ is trained on {_ROWS_OF_A_CODEBOOK} rows or more, and the table has {rows}; set "
            "index.type=auto, which scans a table as small as this"
        )
    if kind == "auto":
        kind = "IVF_FLAT" if rows < _ROWS_WORTH_QUANTISING else "IVF_SQ"
    # Partitions grow with the square root of a large table: the rows probed, and the centres compared, grow alike.
    rows_each = max(_ROWS_PER_PARTITION, int(4 * rows**0.5))
    partitions = max(1, rows // rows_each) if config.partitions == "auto" else min(config.partitions, rows)
    return kind, partitions


def build_segment(table: VectorTable, plan: IndexPlan, fragments: Sequence[int]) -> Index:
    """Index some fragments with a plan's trained parts; no reader sees the segment before `publish_index`."""
    options: dict[str, Any] = {"num_partitions": plan.partitions, "ivf_centroids": plan.centroids_PM}
    if plan.codebook is not None:
        options |= {"pq_codebook": plan.codebook, "num_sub_vectors": plan.sub_vectors}
    return table.dataset.create_index_uncommitted(
        plan.column,
        plan.type,
        name=index_name(plan.dim),
        metric="cosine",
        replace=True,
        fragment_ids=list(fragments),
        **options,
    )


def publish_index(table: VectorTable, plan: IndexPlan, segments: Sequence[Index]) -> VectorTable:
    """Publish segments as one index, in place of an older one; rows committed meanwhile stay unindexed for now."""
    commit_index(table.uri, index_name(plan.dim), plan.column, segments, table.storage)
    return table.refresh()


def extend_prefix_index(table: VectorTable, dim: int) -> VectorTable:
    """Index the rows appended since, as one more segment; do nothing where there is no index or no new row."""
    name = index_name(dim)
    if name in {index.name for index in table.refresh().dataset.describe_indices()}:
        extend_index(table.uri, name, table.storage)
    return table.refresh()
