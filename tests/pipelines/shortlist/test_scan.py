from __future__ import annotations

import numpy as np
import pytest

from pipelines.shortlist.scan import RowSelection, chunk_rows, column_for, query_block, read_chunks, split_names
from pipelines.tables.prefixes import add_prefixes
from schemas.errors import ConfigError
from tests.support.small_tables import vectors

GIB = 1 << 30


@pytest.mark.parametrize("rows", [7, 64, 1000])
def test_chunks_hold_every_row_once_whatever_their_size(make_table, rows):
    table = make_table(vectors(100, 1), vectors(30, 2), vectors(45, 3))
    chunks = [(ids.to_pylist(), x_ND.copy()) for ids, x_ND in read_chunks(table.dataset, RowSelection(), rows)]
    assert [len(ids) for ids, _ in chunks[:-1]] == [rows] * (len(chunks) - 1)
    expected = table.dataset.to_table(columns=["id", "vector"])
    assert [name.rpartition("\0")[0] for ids, _ in chunks for name in ids] == expected["id"].to_pylist()
    assert (np.concatenate([x_ND for _, x_ND in chunks]) == np.array(expected["vector"].to_pylist())).all()


def test_a_selection_names_fragments_a_filter_and_a_column(make_table):
    table = add_prefixes(make_table(vectors(100, 1), vectors(30, 2)), [8])
    second = table.dataset.get_fragments()[1].fragment_id
    selection = RowSelection((second,), "id < 't1-00010'", "vector_8")
    ((ids, x_ND),) = read_chunks(table.dataset, selection, 500)
    assert split_names(ids)[0].to_pylist() == [f"t1-{n:05d}" for n in range(10)]
    assert x_ND.shape == (10, 8)


def test_a_prefix_column_is_chosen_where_every_row_has_it(make_table):
    table = add_prefixes(make_table(vectors(50, 1)), [8])
    assert column_for(table, [4, 8]) == "vector_8"
    assert column_for(table, [8, 16]) == "vector"


def test_chunks_and_blocks_grow_with_the_budget_up_to_their_limits():
    sizes = [chunk_rows(768, 1_000, (64, 768), 100, budget * GIB) for budget in (4, 8, 64)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 1 << 16
    blocks = [query_block(768, (64, 768), 100, budget) for budget in (1 << 20, GIB, 64 * GIB)]
    assert blocks == sorted(blocks)
    assert (blocks[0], blocks[-1]) == (64, 4096)
    with pytest.raises(ConfigError, match="memory_bytes = 1048576 does not hold 10 queries"):
        chunk_rows(768, 10, (64,), 10, 1 << 20)
