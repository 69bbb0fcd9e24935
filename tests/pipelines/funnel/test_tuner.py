"""Tuning over a real table: limits of bytes, a user's own stages, probes of an index."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.funnel import Funnel, FunnelStage, Goal, Home, adaptive_retrieval, funnel_retrieval
from pipelines.tables.table import VectorTable
from pipelines.vectors.matryoshka import unit
from schemas.columns import prefix_column
from schemas.errors import TableError
from tests.support.funnel_tables import GOAL, PREFIX, ROWS, WIDTH, ids, query, recall_at_10, true_scores, vectors


def test_a_funnel_keeps_to_the_bytes_it_may_take(table: VectorTable) -> None:
    funnel = Funnel.build(table, replace(GOAL, recall=0.8, bytes_per_vector=16), home="codes")
    assert funnel.plan.bytes_per_vector <= 16
    assert funnel.card.best.low >= 0.8
    with pytest.raises(TableError, match=r"at most 4 bytes.*none is as small as that"):
        Funnel.build(table, replace(GOAL, recall=0.9, bytes_per_vector=4), home="codes")


@pytest.mark.parametrize(
    ("stages", "home"),
    [
        (adaptive_retrieval(PREFIX, WIDTH).stages, "lake"),
        (funnel_retrieval([PREFIX, 32, WIDTH], [200, 50, 10]).stages, "memory"),
        (
            (
                FunnelStage(dims=WIDTH, precision="bit1", keep=300),
                FunnelStage(dims=WIDTH, precision="int8", keep=20),
                FunnelStage(dims=WIDTH, precision="float16", keep=10),
            ),
            "codes",
        ),
    ],
)
def test_own_stages_are_measured_and_kept(table: VectorTable, stages: tuple[FunnelStage, ...], home: Home) -> None:
    funnel = Funnel.build(table, Goal(queries=150), home=home, stages=stages)
    assert Funnel.open(table, home=home).plan.stages == stages
    assert funnel.card.best.keep == stages[-2].keep
    fresh = unit(vectors(200, seed=5).astype(np.float32))
    exact = np.argsort(-(fresh @ unit(vectors(ROWS).astype(np.float32)).T), axis=1)
    assert recall_at_10(funnel.nearest(fresh, k=10)[1], exact) == pytest.approx(funnel.card.best.recall, abs=0.03)
    told = funnel.explain(query())
    assert [(stage.dims, stage.kept) for stage in told.stages] == [(stage.dims, stage.keep) for stage in stages]


def test_given_queries_take_no_rows_out_of_the_table(table: VectorTable) -> None:
    asked = list(vectors(80, seed=9).astype(np.float32))
    funnel = Funnel.build(table, queries=asked, stages=adaptive_retrieval(PREFIX, WIDTH).stages)
    assert funnel.card.queries == 60
    assert funnel.card.rows_in_table == ROWS


def test_probes_of_an_index_are_tuned(table: VectorTable) -> None:
    column = prefix_column(PREFIX)
    table.dataset.create_index(column, "IVF_PQ", metric="cosine", num_partitions=16, num_sub_vectors=4)
    funnel = Funnel.build(table.refresh(), Goal(recall=0.8, queries=80), home="lake")
    assert funnel.plan.probes in (8, 16)
    assert {row.probes for row in funnel.card} == {8, 16}
    assert len(funnel.search(query(), k=10, where="parity = 1")) == 10
    found = funnel.search(query(), k=10)
    assert found["score"].to_pylist() == pytest.approx(true_scores(found, table.search(query(), k=ROWS)), abs=1e-6)
    assert len(ids(found)) == 10


def test_tables_that_cannot_be_tuned_are_refused(table: VectorTable) -> None:
    table.dataset.drop_columns([prefix_column(PREFIX)])
    with pytest.raises(TableError, match="no prefix column"):
        Funnel.build(table.refresh(), home="lake")
    table.dataset.delete("shard >= 0")
    with pytest.raises(TableError, match="needs at least"):
        Funnel.build(table)
