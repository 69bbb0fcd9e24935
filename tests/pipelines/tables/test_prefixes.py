"""Prefix columns: complete before they are seen, resumed after a kill, unharmed by other writers."""

from __future__ import annotations

import lance
import numpy as np
import pytest

from pipelines.tables.prefixes import (
    add_prefixes,
    commit_prefixes,
    cut_fragment,
    declare_prefixes,
    plan_prefixes,
    publish_prefixes,
)
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.errors import DimNotInLadder, NotMatryoshka
from tests.support.small_tables import add_vectors, vectors


def holds_its_prefixes(table: VectorTable, *dims: int) -> bool:
    rows = table.dataset.to_table()
    full = to_numpy(rows["vector"])
    return all(
        rows[f"vector_{dim}"].null_count == 0 and np.array_equal(to_numpy(rows[f"vector_{dim}"]), cut(full, dim))
        for dim in dims
    )


def test_every_row_gets_its_prefixes_and_nothing_else_changes(make_table):
    table = make_table(vectors(300, 1), vectors(200, 2))
    before = table.dataset.to_table(with_row_id=True)
    table.dataset.delete("id = 't0-00007' OR id = 't1-00199'")

    after = add_prefixes(table, [16, 8])

    assert after.prefix_dims == (8, 16)
    assert after.dataset.count_rows() == 498
    assert holds_its_prefixes(after, 8, 16)
    kept = after.dataset.to_table(columns=["id", "vector"], with_row_id=True)
    assert set(kept["_rowid"].to_pylist()) < set(before["_rowid"].to_pylist())
    after.dataset.validate()


def test_a_killed_run_is_resumed_and_no_reader_sees_a_half_filled_prefix(make_table):
    table = make_table(vectors(50, 1), vectors(50, 2), vectors(50, 3))
    table = declare_prefixes(table, [8])
    first, *rest = plan_prefixes(table, [8])
    table = commit_prefixes(table, [cut_fragment(table, first)])
    cut_fragment(table, rest[0])  # written, never committed: what a kill leaves

    table = table.refresh()
    assert table.prefix_dims == ()
    assert plan_prefixes(declare_prefixes(table, [8]), [8]) == rest
    assert table.search(vectors(1, 9)[0].astype(np.float32), k=5, dim=8).num_rows == 5

    assert holds_its_prefixes(add_prefixes(table, [8]), 8)


def test_only_fragments_that_lack_a_prefix_are_cut(make_table):
    table = add_prefixes(make_table(vectors(50, 1)), [8])
    old_writer = make_table(vectors(50, 1), name="u")
    table = add_vectors(table, vectors(40, 2), "knows")
    assert plan_prefixes(table, [8]) == []
    assert holds_its_prefixes(table, 8)

    stale = old_writer
    complete = add_prefixes(old_writer, [8])
    complete = add_vectors(complete, vectors(40, 3), "late", writer=stale)
    assert complete.dataset.count_rows("vector_8 IS NULL") == 40
    (task,) = plan_prefixes(complete, [8, 8])
    assert cut_fragment(complete, task).rows == 40
    assert holds_its_prefixes(add_prefixes(complete, [8]), 8)


def test_rows_without_a_prefix_are_cut_after_compaction_merged_them_with_others(make_table):
    stale = make_table(vectors(50, 1))
    table = add_vectors(add_prefixes(stale, [8]), vectors(40, 3), "late", writer=stale)
    table.dataset.optimize.compact_files()
    table = table.refresh()
    assert len(table.dataset.get_fragments()) == 1

    assert holds_its_prefixes(add_prefixes(table, [8]), 8)


def test_deletion_and_compaction_may_happen_while_a_fragment_is_cut(make_table):
    table = declare_prefixes(make_table(vectors(50, 1), vectors(50, 2)), [8])
    written = [cut_fragment(table, task) for task in plan_prefixes(table, [8])]
    table.refresh().dataset.delete("id = 't0-00003'")
    table = commit_prefixes(table, written)
    assert plan_prefixes(table, [8]) == []
    assert holds_its_prefixes(publish_prefixes(table, [8]), 8)

    table = declare_prefixes(table, [16])
    written = [cut_fragment(table, task) for task in plan_prefixes(table, [16])]
    table.refresh().dataset.optimize.compact_files()
    table = commit_prefixes(table, written)
    assert len(plan_prefixes(table, [16])) == 1
    assert holds_its_prefixes(add_prefixes(table, [16]), 8, 16)


def test_two_runs_at_once_leave_one_column(make_table):
    table = declare_prefixes(make_table(vectors(50, 1), vectors(50, 2)), [8])
    ours = [cut_fragment(table, task) for task in plan_prefixes(table, [8])]
    theirs = add_prefixes(table, [8])
    table = commit_prefixes(table, ours)
    assert table.dataset.schema.names == theirs.dataset.schema.names
    assert holds_its_prefixes(publish_prefixes(table, [8]), 8)


def test_rows_may_be_committed_while_prefixes_are_filled(make_table):
    table = declare_prefixes(make_table(vectors(50, 1)), [8])
    table = add_vectors(table, vectors(30, 2), "meanwhile")
    assert table.kept.names == []
    assert holds_its_prefixes(add_prefixes(table, [8]), 8)


def test_an_empty_table_gets_the_column(make_table):
    table = add_prefixes(make_table(), [8])
    assert holds_its_prefixes(add_vectors(table, vectors(10, 1), "first"), 8)


@pytest.mark.parametrize(("ladder", "dim", "error"), [((8, 32), 16, DimNotInLadder), ((32,), 16, NotMatryoshka)])
def test_dims_outside_the_ladder_are_refused(make_table, ladder, dim, error):
    with pytest.raises(error, match=str(dim)):
        add_prefixes(make_table(vectors(5, 1), ladder=ladder), [dim])


def test_the_full_width_needs_no_prefix(make_table):
    with pytest.raises(DimNotInLadder, match="8, 16"):
        add_prefixes(make_table(vectors(5, 1)), [32])


def test_scanning_a_prefix_reads_little_more_than_the_prefix(make_table):
    rows, width = 40_000, 256
    table = add_prefixes(make_table(vectors(rows, 1, width=width), ladder=(16, width)), [16])
    dataset = lance.dataset(table.uri)
    dataset.io_stats_incremental()
    for _ in dataset.to_batches(columns=["vector_16"]):
        pass
    assert 0.9 < dataset.io_stats_incremental().read_bytes / (rows * 16 * 2) < 1.1
