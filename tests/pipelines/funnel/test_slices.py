from __future__ import annotations

import os

import numpy as np
import pytest

from pipelines.funnel.faiss_stages import train_stages
from pipelines.funnel.slices import FaissSlices, empty_stores, fill_stores, useful_slices
from pipelines.vectors.matryoshka import unit
from schemas.plans import FunnelStage, Plan
from tests.support.funnel_tables import ROWS, WIDTH, recall_at_10, vectors

PLAN = Plan(
    stages=(
        FunnelStage(dims=WIDTH, precision="pq4", codes=32, keep=200),
        FunnelStage(dims=WIDTH, precision="float16", keep=10),
    )
)


def test_no_more_slices_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= useful_slices(100_000) <= len(os.sched_getaffinity(0))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert useful_slices(100_000) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_slices_do_not_change_what_is_found(count: int) -> None:
    x_ND = vectors(ROWS)
    x_ND = x_ND[np.argsort(x_ND[:, 0].astype(np.float32))]  # neighbours lie together, as a shard leaves them
    unit_ND, query_BD = unit(x_ND.astype(np.float32)), unit(vectors(100, seed=5).astype(np.float32))
    blocks = (x_ND[at : at + 700] for at in range(0, ROWS, 700))
    empty = train_stages(PLAN, x_ND.astype(np.float32))
    slices = FaissSlices.build(empty, blocks, ROWS, empty_stores(ROWS, WIDTH, count), count)
    assert len(slices) == ROWS
    assert slices.holds_vectors
    scores_BK, positions_BK = slices.search(PLAN, query_BD, 10)
    cosines_BN = query_BD @ unit_ND.T
    assert scores_BK == pytest.approx(np.take_along_axis(cosines_BN, positions_BK, 1), abs=1e-6)
    assert recall_at_10(positions_BK, np.argsort(-cosines_BN, axis=1)) > 0.95
    assert recall_at_10(slices.search(PLAN, query_BD[:1], 10)[1], positions_BK[:1]) == 1
    coarse_BK, found_BK = slices.candidates(PLAN, query_BD)
    assert (np.diff(coarse_BK, axis=1) <= 0).all()
    assert found_BK.shape == (100, 200)
    assert all(len(set(row)) == 200 for row in found_BK.tolist())
    assert (slices.vectors(positions_BK[0]) == x_ND[positions_BK[0]]).all()


def test_full_vectors_may_be_shared_or_left_out() -> None:
    x_ND, query_BD = vectors(ROWS), unit(vectors(5, seed=5).astype(np.float32))
    empty = train_stages(PLAN, x_ND.astype(np.float32))
    shared = fill_stores([x_ND], ROWS, WIDTH)
    first, second = (FaissSlices.build(empty, [x_ND], ROWS, shared) for _ in range(2))
    assert (first.search(PLAN, query_BD, 5)[1] == second.search(PLAN, query_BD, 5)[1]).all()
    codes_only = FaissSlices.build(empty, [x_ND], ROWS)
    assert not codes_only.holds_vectors
    assert codes_only.bytes_per_vector < first.bytes_per_vector
    assert (codes_only.candidates(PLAN, query_BD)[1] == first.candidates(PLAN, query_BD)[1]).all()


def test_no_vectors_at_all() -> None:
    empty = train_stages(PLAN, vectors(ROWS).astype(np.float32))
    slices = FaissSlices.build(empty, [], 0, empty_stores(0, WIDTH))
    assert slices.search(PLAN, unit(vectors(3).astype(np.float32)), 5)[1].shape == (3, 0)
