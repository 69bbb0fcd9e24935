from __future__ import annotations

import faiss
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shortlist.exact import Best, ExactSearch
from pipelines.vectors.matryoshka import cut, unit
from schemas.config import ExactConfig
from tests.support.small_tables import vectors

PRECISIONS = ["float32", "bfloat16"]


def search(q_QD, x_ND, dims, k, precision="float32", chunk=7000, ids=None, query_ids=None) -> dict[int, Best]:
    ids = pa.array([f"r{i:07d}" for i in range(len(x_ND))]) if ids is None else ids
    exact = ExactSearch(q_QD, dims, k, ExactConfig(precision=precision), query_ids)
    for start in range(0, len(x_ND), chunk):
        exact.add(ids[start : start + chunk], x_ND[start : start + chunk])
    return exact.best


def scores_by_numpy(q_QD, x_ND, dim):
    """Cosines in double precision."""
    return cut(q_QD.astype(np.float64), dim) @ cut(x_ND.astype(np.float64), dim).T


def is_exact(best: Best, scores_QN, ids, k) -> bool:
    """Whether the lists are the K best: same scores, and same ids but where the next is closer than float32 tells."""
    names = np.array(ids.to_pylist())
    for row, got_scores, got_ids in zip(
        scores_QN, best.scores_QK, np.array(best.ids.to_pylist()).reshape(-1, k), strict=True
    ):
        order = np.lexsort((names, -row.astype(np.float32)))[:k]
        np.testing.assert_allclose(got_scores[: len(order)], row[order], atol=1e-6)
        differs = got_ids[: len(order)] != names[order]
        position = {name: i for i, name in enumerate(names)} if differs.any() else {}
        for rank in np.flatnonzero(differs):
            assert abs(row[position[got_ids[rank]]] - row[order[rank]]) < 1e-6
    return True


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_as_numpy_on_20k_by_256(precision):
    x, q = vectors(20_000, 1, width=256), vectors(32, 2, width=256).astype(np.float32)
    ids = pa.array([f"r{(i * 7919) % 20_000:05d}" for i in range(20_000)])
    best = search(q, x, (16, 64, 256), 100, precision, ids=ids)
    assert all(is_exact(best[dim], scores_by_numpy(q, x, dim), ids, 100) for dim in best)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_as_faiss_with_ties_by_id(precision):
    x, q = vectors(20_000, 1, width=64), vectors(50, 2, width=64).astype(np.float32)
    x[10_000:] = x[:10_000]  # every row twice
    best = search(q, x, (16, 64), 20, precision)
    for dim, found in best.items():
        index = faiss.IndexFlatIP(dim)
        index.add(cut(x.astype(np.float32), dim))
        scores, places = index.search(cut(q, dim), 20)
        np.testing.assert_allclose(found.scores_QK, scores, atol=1e-6)
        got = np.array([int(name[1:]) for name in found.ids.to_pylist()]).reshape(scores.shape)
        assert (got[:, 1::2] - got[:, ::2] == 10_000).all()  # of two equal rows the smaller id first
        assert (np.sort(got % 10_000, axis=1) == np.sort(places % 10_000, axis=1)).mean() > 0.999


@settings(max_examples=40)
@given(
    rows=st.integers(1, 90),
    queries=st.integers(1, 5),
    k=st.integers(1, 40),
    chunk=st.integers(1, 50),
    copies=st.integers(0, 3),
    precision=st.sampled_from(PRECISIONS),
    is_opposed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_shape_with_ties_zeros_and_negative_cosines(rows, queries, k, chunk, copies, precision, is_opposed, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (rows, 8)).astype(np.float16)  # small whole numbers: many equal scores, some zero rows
    q = rng.standard_normal((queries, 8)).astype(np.float32)
    if is_opposed:  # all cosines below zero
        x, q = np.abs(x) + np.float16(0.5), -np.abs(q)
    x = np.concatenate([x] + [x[: rows // 2]] * copies)
    ids = pa.array([f"r{i}" for i in rng.permutation(len(x))])
    best = search(q, x, (3, 8), k, precision, chunk=chunk, ids=ids)
    for dim in (3, 8):
        usable = np.flatnonzero(x[:, :dim].any(axis=1))
        assert is_exact(best[dim], scores_by_numpy(q, x[usable], dim), ids.take(pa.array(usable)), k)
        held = min(k, len(usable))
        assert best[dim].ids.null_count == queries * (k - held)
        assert np.isneginf(best[dim].scores_QK[:, held:]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [49, 50, 51])
def test_all_rows_are_listed_where_as_many_are_asked_for_as_there_are(precision, k):
    x, names = vectors(50, 1), pa.array([f"r{i}" for i in range(50)])
    best = search(x, x, (8, 32), k, precision, ids=names, query_ids=names)
    assert all((np.isfinite(found.scores_QK).sum(axis=1) == 49).all() for found in best.values())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_with_its_querys_own_id_is_left_out_even_if_others_equal_it(precision):
    x = vectors(5000, 1)
    x[100:140] = x[7]
    ids = pa.array([f"r{i:04d}" for i in range(5000)])
    best = search(x[:50].astype(np.float32), x, (8, 32), 10, precision, chunk=999, ids=ids, query_ids=ids[:50])
    for found in best.values():
        lists = np.array(found.ids.to_pylist()).reshape(50, 10)
        assert not (lists == np.array(ids[:50].to_pylist())[:, None]).any()
        assert lists[7].tolist() == [f"r{i:04d}" for i in range(100, 110)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_thousands_of_rows_closer_together_than_rough_scores_can_tell(precision):
    rng = np.random.default_rng(0)
    centre = unit(rng.standard_normal(64).astype(np.float32))
    x = unit(centre + 0.003 * rng.standard_normal((9000, 64)).astype(np.float32)).astype(np.float16)
    q = unit(centre + 0.003 * rng.standard_normal((20, 64)).astype(np.float32))
    ids = pa.array([f"r{i:04d}" for i in range(9000)])
    best = search(q, x, (64,), 5, precision, ids=ids)
    assert is_exact(best[64], scores_by_numpy(q, x, 64), ids, 5)


def test_deep_lists():
    x, q = vectors(6000, 1), vectors(4, 2).astype(np.float32)
    ids = pa.array([f"r{i:04d}" for i in range(6000)])
    best = search(q, x, (32,), 2500, "bfloat16", chunk=3000, ids=ids)
    assert is_exact(best[32], scores_by_numpy(q, x, 32), ids, 2500)


def test_the_error_bound_holds_for_every_row():
    x, q = vectors(4000, 1, width=256), vectors(30, 2, width=256).astype(np.float32)
    exact = ExactSearch(q, (256,), 1, ExactConfig(precision="bfloat16"))
    state = exact._dims[256]
    rough = (torch.from_numpy(cut(x.astype(np.float32), 256)).bfloat16().float() @ state.rough_MQ.float()).T.numpy()
    worst = np.abs(rough - scores_by_numpy(q, x, 256)).max()
    assert 0 < worst < state.error


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_on_a_gpu():
    x, q = vectors(20_000, 1, width=64), vectors(50, 2, width=64).astype(np.float32)
    ids = pa.array([f"r{i:07d}" for i in range(20_000)])
    exact = ExactSearch(q, (16, 64), 10, ExactConfig(device="cuda"))
    exact.add(ids, x)
    assert all(is_exact(exact.best[dim], scores_by_numpy(q, x, dim), ids, 10) for dim in (16, 64))
