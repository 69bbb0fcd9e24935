from __future__ import annotations

import numpy as np
import pytest

from pipelines.funnel.faiss_stages import (
    chain_stages,
    code_bytes,
    full_vector_store,
    full_vectors,
    search_stages,
    train_stages,
)
from pipelines.vectors.matryoshka import cut, unit
from schemas.plans import FunnelStage, Plan
from tests.support.funnel_tables import ROWS, WIDTH, recall_at_10, vectors

LAST = FunnelStage(dims=WIDTH, precision="float16", keep=10)


@pytest.mark.parametrize(
    ("first", "lists", "least"),
    [
        (FunnelStage(dims=32, precision="float32", keep=10), 0, 0.999),
        (FunnelStage(dims=32, precision="int8", keep=10), 0, 0.95),
        (FunnelStage(dims=WIDTH, precision="bit1", keep=10), 0, 0.2),
        (FunnelStage(dims=32, precision="pq4", codes=32, keep=10), 0, 0.7),
        (FunnelStage(dims=32, precision="float16", keep=10), 16, 0.95),
    ],
    ids=lambda value: value.precision if isinstance(value, FunnelStage) else str(value),
)
def test_a_first_stage_ranks_by_its_prefix(first: FunnelStage, lists: int, least: float) -> None:
    x_ND, query_BD = vectors(ROWS).astype(np.float32), unit(vectors(50, seed=5).astype(np.float32))
    plan = Plan(stages=(first, LAST), lists=lists, probes=lists)
    (stage,) = train_stages(plan, x_ND)
    stage.add(x_ND)
    (level,) = chain_stages([stage])
    _, positions_BK = search_stages(level, plan, query_BD, [10])
    exact_BN = np.argsort(-(cut(query_BD, first.dims) @ cut(x_ND, first.dims).T), axis=1)
    assert recall_at_10(positions_BK, exact_BN) >= least
    assert code_bytes(stage) == first.bytes_per_vector + (8 if lists else 0)


def test_each_stage_refines_the_one_before() -> None:
    x_ND, query_BD = vectors(ROWS).astype(np.float32), unit(vectors(50, seed=5).astype(np.float32))
    middle = FunnelStage(dims=32, precision="int8", keep=50)
    plan = Plan(stages=(FunnelStage(dims=16, precision="float16", keep=300), middle, LAST))
    chain = chain_stages([*train_stages(plan, x_ND), full_vector_store(WIDTH)])
    chain[-1].add(x_ND)
    exact_BN = np.argsort(-(query_BD @ x_ND.T), axis=1)
    keeps = [[10], [300, 10], [300, 50, 10]]
    recalls = [
        recall_at_10(search_stages(level, plan, query_BD, kept)[1], exact_BN)
        for level, kept in zip(chain, keeps, strict=True)
    ]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]


def test_full_vectors_are_seen_in_place() -> None:
    x_ND = vectors(100)
    store = full_vector_store(WIDTH)
    store.add(x_ND.astype(np.float32))
    assert (full_vectors(store) == x_ND).all()
