"""A recall card against plain numpy: its recall is what `Funnel.search` finds for the card's own queries."""

from __future__ import annotations

from collections.abc import Sequence

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.funnel import Funnel, FunnelStage, Goal, Home
from pipelines.funnel.goal import validation_queries
from pipelines.tables.create import create_table
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import cut, unit
from schemas.columns import prefix_column, vector_field
from tests.support.funnel_tables import PREFIX, SPACE, WIDTH, batch, vectors

Floats = npt.NDArray[np.float32]
QUERIES = 80
SAME = 1e-6
# A result whose score is as far from the k-th as the tolerance of a tie may count or not. The rows of other numbers of
# candidates are estimates: where codes tie at the last candidate, a shorter list may hold others.
ON_THE_EDGE, ESTIMATED = 1.5, 3.5

WIDE = FunnelStage(dims=WIDTH, precision="float16", keep=10)
PREFIX_STAGE = FunnelStage(dims=PREFIX, precision="float16", keep=30)
STAGES: dict[Home, list[list[FunnelStage] | None]] = {
    "memory": [
        None,
        [PREFIX_STAGE, WIDE],
        [FunnelStage(dims=WIDTH, precision="int8", keep=10), WIDE],
        [FunnelStage(dims=32, precision="pq4", codes=16, keep=25), WIDE],
    ],
    "codes": [
        None,
        [FunnelStage(dims=WIDTH, precision="int8", keep=10), WIDE],
        [FunnelStage(dims=WIDTH, precision="bit1", keep=60), FunnelStage(dims=WIDTH, precision="int8", keep=12), WIDE],
    ],
    "lake": [None, [PREFIX_STAGE, WIDE], [PREFIX_STAGE, FunnelStage(dims=32, precision="float16", keep=15), WIDE]],
}


def recall(scores_Q: Sequence[Sequence[float]], query_QD: Floats, others_QND: Sequence[Floats], k: int) -> float:
    """Share of the exact k best that were found; of rows that tie with the k-th, any is as good."""
    found = 0
    for scores, query_D, x_ND in zip(scores_Q, query_QD, others_QND, strict=True):
        assert len(scores) == k
        exact_N, scores_K = x_ND @ query_D, np.array(scores)
        kth = np.sort(exact_N)[-k]
        ties = int((np.abs(scores_K - kth) <= SAME).sum())
        found += int((scores_K > kth + SAME).sum()) + min(ties, k - int((exact_N > kth + SAME).sum()))
    return found / (len(query_QD) * k)


def scores_by_query(found: pa.Table) -> list[list[float]]:
    frame = found.to_pandas()
    return [group["score"].tolist() for _, group in frame.groupby("query")] if "query" in frame else [[*frame["score"]]]


def write(uri: str, x_ND: npt.NDArray[np.float16]) -> VectorTable:
    table = create_table(uri, SPACE, pa.schema([pa.field("parity", pa.int64())]))
    dataset = lance.write_dataset(batch(x_ND, 0, table.dataset.schema), table.uri, mode="append")
    schema = pa.schema([vector_field(PREFIX, prefix_column(PREFIX))])
    dataset.add_columns(pa.table([to_arrow(cut(x_ND, PREFIX))], schema=schema).to_reader())
    return table.refresh()


@pytest.mark.parametrize("home", ["memory", "codes", "lake"])
@settings(max_examples=3)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(450, 1_500),
    copies=st.sampled_from([0, 0, 40]),
    choice=st.integers(0, 3),
    are_rows=st.booleans(),
)
def test_the_card_says_what_a_search_finds(
    tmp_path_factory: pytest.TempPathFactory,
    home: Home,
    seed: int,
    rows: int,
    copies: int,
    choice: int,
    are_rows: bool,
) -> None:
    x_ND = vectors(rows, seed)
    x_ND[:copies] = x_ND[0]
    table = write(str(tmp_path_factory.mktemp("cards") / "t.lance"), x_ND)
    stages = STAGES[home][choice % len(STAGES[home])]
    asked = None if are_rows else list(unit(vectors(QUERIES, seed + 1).astype(np.float32)))
    goal = Goal(recall=0.6 if stages is None else None, queries=QUERIES if are_rows else None, seed=seed % 100)
    funnel = Funnel.build(table, goal, home=home, queries=asked, stages=stages)
    card, whole_ND = funnel.card, unit(x_ND.astype(np.float32))
    assert (card.rows_in_table, card.queries) == (rows, QUERIES - validation_queries(QUERIES))
    if asked is None:
        drawn = np.random.default_rng(goal.seed).permutation(rows)[:QUERIES][validation_queries(QUERIES) :]
        query_QD = whole_ND[drawn]
        found = [[*funnel.search(like=f"r{row}", k=card.k)["score"].to_pylist()] for row in drawn]
        others = [np.delete(whole_ND, row, axis=0) for row in drawn]
    else:
        query_QD = np.stack(asked)[validation_queries(QUERIES) :]
        found, others = scores_by_query(funnel.search(query_QD, k=card.k)), [whole_ND] * len(query_QD)
        for depth in card.depths:
            deep = scores_by_query(funnel.search(query_QD, k=depth.k))
            edge = ON_THE_EDGE / depth.k / len(query_QD)
            assert recall(deep, query_QD, others, depth.k) == pytest.approx(depth.recall, abs=edge)
        confirmed = [row for row in card.rows if row.split == "test" and 0 < row.low < 1]
        for low in sorted(row.low for row in confirmed)[:2]:
            chosen = min((row for row in confirmed if row.low >= low), key=lambda row: row.looked_at)
            fewer = scores_by_query(funnel.search(query_QD, k=card.k, recall=low))
            edge = (ON_THE_EDGE if chosen is card.best else ESTIMATED) / card.k / len(query_QD)
            assert recall(fewer, query_QD, others, card.k) == pytest.approx(chosen.recall, abs=edge)
    edge = ON_THE_EDGE / card.k / len(query_QD)
    assert recall(found, query_QD, others, card.k) == pytest.approx(card.best.recall, abs=edge)
    if card.best.margin is None:
        assert card.best.looked_at >= card.best.keep
