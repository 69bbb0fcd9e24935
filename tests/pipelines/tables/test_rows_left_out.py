"""Rows without a direction, as another tool may write them, are in no result, harm no other, and are said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from matryoshka_lake import Funnel, Goal, RowsLeftOut, VectorTable
from pipelines.explore.slider_search import SliderSearch
from pipelines.tables.create import create_table
from pipelines.tables.prefixes import add_prefixes
from pipelines.vectors.arrays import Floats, to_arrow
from pipelines.vectors.matryoshka import cut, unit
from schemas.columns import prefix_column
from tests.support.erasures import search as make_lists
from tests.support.small_tables import LADDER, SPACE, add_vectors, vectors

ROWS, WIDTH, K = 2_000, LADDER[-1], 10
NAN_AT, SHORT = 20, 8  # a number behind the first 8 dims is NaN; or the first 8 are zeros
pytestmark = pytest.mark.filterwarnings("ignore::schemas.errors.FunnelWarning")


def spoil(x_ND: np.ndarray, kind: str, rows: np.ndarray) -> None:
    if kind in ("nan", "inf"):
        x_ND[rows, NAN_AT] = float(kind)
    elif kind == "short":
        x_ND[rows, :SHORT] = 0
        x_ND[rows] = unit(x_ND[rows].astype(np.float32))
    else:
        x_ND[rows] = 0


def write_over(table: VectorTable, x_ND: np.ndarray) -> None:
    """Write all vectors anew, as another tool would, with their prefixes."""
    rows = table.dataset.to_table()
    order = [int(name.rpartition("-")[2]) for name in rows["id"].to_pylist()]
    columns = {name: rows[name].combine_chunks() for name in rows.schema.names} | {"vector": to_arrow(x_ND[order])}
    for dim in table.prefix_dims:
        columns[prefix_column(dim)] = to_arrow(cut(x_ND[order], dim))
    changed = pa.table(list(columns.values()), schema=rows.schema)
    lance.dataset(table.uri).merge_insert("id").when_matched_update_all().execute(changed)


def best(query_D: Floats, x_ND: np.ndarray, dim: int, k: int) -> tuple[list[str], int]:
    """Names of the k best rows by numpy, and how many rows can be compared."""
    x_NM = x_ND[:, :dim].astype(np.float64)
    with np.errstate(invalid="ignore"):
        lengths_N = np.linalg.norm(x_NM, axis=1)
    usable = np.flatnonzero(np.isfinite(lengths_N) & (lengths_N > 0))
    scores = x_NM[usable] / lengths_N[usable, None] @ query_D[:dim]
    return [f"s-{row:05d}" for row in usable[np.argsort(-scores, kind="stable")[:k]]], len(usable)


@pytest.fixture
def made(tmp_path: Path) -> tuple[VectorTable, np.ndarray]:
    table = create_table(str(tmp_path / "t.lance"), SPACE, pa.schema([]))
    x_ND = np.array(vectors(ROWS, 1))
    return add_prefixes(add_vectors(table, x_ND, "s"), [SHORT]).refresh(), x_ND


@pytest.mark.parametrize("kind", ["nan", "inf", "zeros", "short"])
def test_searches_and_lists_leave_them_out(made: tuple[VectorTable, np.ndarray], kind: str) -> None:
    table, x_ND = made
    spoil(x_ND, kind, np.arange(3, 60, 7))
    write_over(table, x_ND)
    table, query_D = table.refresh(), unit(x_ND[0].astype(np.float32))
    for dim in LADDER:
        names, usable = best(query_D, x_ND, dim, ROWS)
        assert table.search(query_D, K, dim=dim).to_arrow()["id"].to_pylist() == names[:K]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", RowsLeftOut)
            hits = table.search(query_D, ROWS, dim=dim).to_arrow()
        assert (len(hits), bool(said)) == (usable, usable < ROWS)
        assert all(f"not compared: {ROWS - usable} rows" in str(each.message) for each in said)
        assert np.isfinite(hits["score"].to_numpy()).all()
    lists, usable = make_lists(table), best(query_D, x_ND, WIDTH, 1)[1]
    assert len(lists) == (usable if kind == "zeros" else ROWS)  # the others have lists at some dims
    for row in range(0, ROWS, 111):
        name, wanted = f"s-{row:05d}", list[str]()
        for dim in (SHORT, WIDTH):
            wanted += best(cut(x_ND[row].astype(np.float32), dim), x_ND, dim, 3)[0]
        assert sorted(lists[name]) == sorted(wanted)


@pytest.mark.parametrize("home", ["memory", "codes", "lake"])
def test_funnels_leave_them_out_when_opened_and_when_they_follow(
    made: tuple[VectorTable, np.ndarray], home: str
) -> None:
    table, x_ND = made
    Funnel.build(table.uri, Goal(recall=0.95, k=K, queries=200), home=home)
    following = Funnel.open(table.uri, home=home)
    asked = np.arange(1_000, 1_040)
    for step, kind in enumerate(("nan", "zeros", "inf")):
        spoil(x_ND, kind, np.arange(step, 200, 3))
        write_over(table, x_ND)
        following.refresh()
        for funnel in (following, Funnel.open(table.uri, home=home)):
            check(funnel.search, x_ND, asked)


def check(search: Callable[..., Any], x_ND: np.ndarray, asked: np.ndarray) -> None:
    queries_QD = unit(x_ND[asked].astype(np.float32))
    found = search(queries_QD, K).to_arrow()
    assert np.isfinite(found["score"].to_numpy()).all()
    right = 0
    for number, query_D in enumerate(queries_QD):
        names = found.filter(pa.compute.equal(found["query"], number))["id"].to_pylist()
        wanted, usable = best(query_D, x_ND, WIDTH, K)
        assert len(names) == K
        right += len(set(names) & set(wanted))
    assert right / (K * len(asked)) > 0.9
    with pytest.warns(RowsLeftOut, match=f"not compared: {ROWS - usable} rows"):
        assert len(search(queries_QD[0], ROWS)) == usable


def test_the_sliders_leave_them_out(made: tuple[VectorTable, np.ndarray]) -> None:
    table, x_ND = made
    spoil(x_ND, "nan", np.arange(100))
    write_over(table, x_ND)
    sliders = SliderSearch(table.refresh(), 1 << 30)
    assert (sliders.rows, sliders.rows_in_table, sliders.is_sample) == (ROWS - 100, ROWS, False)
    query_D = unit(x_ND[500].astype(np.float32))
    answer = sliders.find(query_D, WIDTH, K, sliders.exact(query_D, K, None))
    assert (len(answer.rows_K), answer.recall) == (K, 1.0)
