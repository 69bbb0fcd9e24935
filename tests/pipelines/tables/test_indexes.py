"""Indexes over prefixes: chosen by size, built in segments, extended by what is new."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.tables.indexes import (
    build_segment,
    choose_index,
    extend_prefix_index,
    index_name,
    index_prefix,
    plan_index,
    publish_index,
)
from pipelines.tables.prefixes import add_prefixes
from pipelines.tables.table import VectorTable
from schemas.config import PrefixIndexConfig
from schemas.errors import TableError
from tests.support.small_tables import add_vectors, vectors

FLAT = PrefixIndexConfig(type="IVF_FLAT", partitions=4)


def segments(table: VectorTable, dim: int = 8) -> list[list[int]]:
    """Fragments of each segment of an index."""
    found = [index for index in table.dataset.describe_indices() if index.name == index_name(dim)]
    return [sorted(segment.fragment_ids) for index in found for segment in index.segments]


def finds_itself(table: VectorTable, x: np.ndarray) -> bool:
    """Whether the index (all cells probed) finds every one of some rows as its own nearest."""
    for row in x[:20]:
        nearest = {"column": "vector_8", "q": row[:8].astype(np.float32), "k": 1, "nprobes": 64, "refine_factor": 4}
        found = table.dataset.to_table(columns=["vector"], nearest={**nearest, "metric": "cosine"})
        if not np.allclose(np.array(found["vector"].to_pylist()[0], np.float16), row):
            return False
    return True


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1_000, None),
        (200_000, ("IVF_FLAT", 48)),
        (10_000_000, ("IVF_FLAT", 790)),
        (100_000_000, ("IVF_SQ", 2500)),
    ],
)
def test_the_size_of_a_table_decides_type_and_partitions(rows, expected):
    assert choose_index(rows) == expected


def test_settings_override_the_choice():
    assert choose_index(1_000, PrefixIndexConfig(type="IVF_PQ", partitions=7)) == ("IVF_PQ", 7)
    assert choose_index(10**9, PrefixIndexConfig(type="none")) is None
    assert choose_index(512, PrefixIndexConfig(type="IVF_PQ")) == ("IVF_PQ", 1)
    with pytest.raises(TableError, match=r"index\.type=IVF_PQ is trained on 512 rows or more, and the table has 511"):
        choose_index(511, PrefixIndexConfig(type="IVF_PQ"))


def test_workers_build_segments_that_one_commit_publishes(make_table):
    shards = [vectors(400, seed) for seed in range(3)]
    table = add_prefixes(make_table(*shards), [8])
    plan = plan_index(table, 8, FLAT)
    assert plan is not None
    built = [build_segment(table.refresh(), plan, [fragment]) for fragment in plan.fragments]
    assert segments(table.refresh()) == []

    table = publish_index(table, plan, built)

    assert sorted(segments(table)) == [[f] for f in plan.fragments]
    stats = table.dataset.stats.index_stats(index_name(8))
    assert (stats["num_indexed_rows"], stats["num_unindexed_rows"]) == (1200, 0)
    assert all(finds_itself(table, x) for x in shards)


@pytest.mark.parametrize("kind", ["IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ"])
def test_every_type_builds_and_finds(make_table, kind):
    x = vectors(1200, 1)
    table = add_prefixes(make_table(x), [8])
    table = index_prefix(table, 8, PrefixIndexConfig(type=kind, partitions=2))
    stats = table.dataset.stats.index_stats(index_name(8))
    assert (stats["index_type"], stats["num_indexed_rows"]) == (kind, 1200)
    found = table.search(x[5].astype(np.float32), k=10, dim=8)["id"].to_pylist()
    assert len(found) == 10


def test_after_an_append_only_the_new_rows_are_indexed(make_table):
    first, later = vectors(1000, 1), vectors(200, 2)
    table = index_prefix(add_prefixes(make_table(first), [8]), 8, FLAT)
    (before,) = segments(table)
    table = add_prefixes(add_vectors(table, later, "later"), [8])

    table = index_prefix(table, 8, FLAT)

    assert before in segments(table)
    assert len(segments(table)) == 2
    assert table.dataset.stats.index_stats(index_name(8))["num_unindexed_rows"] == 0
    assert finds_itself(table, first)
    assert finds_itself(table, later)
    version = table.dataset.version
    assert index_prefix(table, 8, FLAT).dataset.version == version


def test_an_index_is_rebuilt_when_its_table_outgrew_it_or_its_type_changes(make_table):
    table = index_prefix(add_prefixes(make_table(vectors(1000, 1)), [8]), 8, FLAT)
    grown = index_prefix(table, 8, PrefixIndexConfig(type="IVF_FLAT", partitions=40))
    assert grown.dataset.stats.index_stats(index_name(8))["indices"][0]["num_partitions"] == 40
    assert len(segments(grown)) == 1
    other = index_prefix(grown, 8, PrefixIndexConfig(type="IVF_SQ", partitions=4))
    assert other.dataset.stats.index_stats(index_name(8))["index_type"] == "IVF_SQ"


def test_a_small_table_gets_no_index(make_table):
    table = add_prefixes(make_table(vectors(100, 1)), [8])
    assert segments(index_prefix(table, 8)) == []
    assert segments(extend_prefix_index(table, 8)) == []


def test_rows_committed_during_a_build_are_found_at_once(make_table):
    table = add_prefixes(make_table(vectors(1000, 1)), [8])
    plan = plan_index(table, 8, FLAT)
    assert plan is not None
    segment = build_segment(table, plan, plan.fragments)
    late = vectors(50, 3)
    add_vectors(table, late, "late")
    assert finds_itself(publish_index(table, plan, [segment]), late)


def test_an_index_needs_its_column(make_table):
    with pytest.raises(TableError, match="mlake shortlist"):
        index_prefix(make_table(vectors(5, 1)), 8)
