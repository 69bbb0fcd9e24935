"""A plan is checked when it is made; a stored funnel is read back, and a damaged one is refused."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from schemas.cards import CardRow, RecallCard, TunedFunnel
from schemas.errors import TableError
from schemas.plans import FunnelStage, Plan

COARSE = FunnelStage(dims=16, precision="pq4", codes=8, keep=100)
FULL = FunnelStage(dims=64, precision="float16", keep=10)
PLAN = Plan(stages=(COARSE, FULL))
ROW = CardRow(
    dims=16,
    precision="pq4",
    keep=100,
    probes=0,
    looked_at=100,
    recall=0.97,
    low=0.96,
    high=0.98,
    us_per_query=12,
    us_per_query_batched=None,
    bytes_per_vector=132,
)
CARD = RecallCard(
    k=10,
    queries=500,
    rows_in_table=9000,
    version=3,
    exact_us_per_query=90,
    exact_us_per_query_batched=30,
    chosen=0,
    rows=(ROW,),
)


def test_bytes_and_candidates_of_a_plan() -> None:
    assert (COARSE.bytes_per_vector, FULL.bytes_per_vector) == (4, 128)
    assert PLAN.bytes_per_vector == 132
    assert PLAN.model_copy(update={"home": "codes"}).bytes_per_vector == 4
    assert PLAN.candidates == 100
    assert PLAN.keeping(50).candidates == 50
    assert not PLAN.is_exact


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": (FULL, COARSE)}, "stages must grow in dims"),
        ({"stages": (COARSE,)}, "at least 2"),
        ({"stages": (COARSE, COARSE.model_copy(update={"keep": 10}))}, "finds candidates in the first stage"),
        ({"margin": 0.1}, "only a plan in the lake has a margin"),
    ],
)
def test_plans_that_do_not_narrow_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Plan.model_validate(PLAN.model_dump() | change)


def test_only_pq4_has_codes_that_divide_its_dims() -> None:
    for stage in (
        {"precision": "pq4", "codes": 0},
        {"precision": "int8", "codes": 8},
        {"precision": "pq4", "codes": 7},
    ):
        with pytest.raises(ValidationError, match="pq4 needs `codes`"):
            FunnelStage.model_validate({"dims": 16, "keep": 1, **stage})


def test_a_stored_funnel_is_read_back() -> None:
    tuned = TunedFunnel(plan=PLAN, card=CARD)
    assert TunedFunnel.from_json(tuned.to_json(), "t") == tuned
    assert "*    16" in str(tuned.card)
    damaged = json.loads(tuned.to_json())
    damaged["plan"]["stages"].reverse()
    with pytest.raises(TableError, match=r"t: the funnel is malformed: plan: stages must grow.*mlake funnel TABLE"):
        TunedFunnel.from_json(json.dumps(damaged), "t")


@pytest.mark.parametrize(
    ("where", "key", "value", "said"),
    [
        ("plan", "reach", [float("nan"), 0.1], "finite number"),
        ("plan", "reach", [-0.1, 0.1], "greater than or equal to 0"),
        ("plan", "doubt", float("inf"), "finite number"),
        ("plan", "k", 20, "the plan is for k=20, and its card for k=10"),
        ("plan", "home", "lake", "a plan in the lake reads float16 columns"),
        ("plan", "probes", 4, "4 probes of 0 lists"),
        ("plan", "lists", 1 << 40, "less than or equal to"),
        ("card", "exact_us_per_query", float("nan"), "finite number"),
        (
            "card",
            "depths",
            [{"k": 5, "keeps": [9], "probes": 0} | dict.fromkeys(("recall", "low", "high"), 1)],
            "ascend",
        ),
        (
            "card",
            "depths",
            [{"k": 50, "keeps": [9], "probes": 0} | dict.fromkeys(("recall", "low", "high"), 1)],
            "fewer",
        ),
    ],
)
def test_a_stored_funnel_that_was_edited_by_hand_is_refused(where: str, key: str, value: object, said: str) -> None:
    record = json.loads(TunedFunnel(plan=PLAN, card=CARD).to_json())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value[0]["queries"] = 9
    record[where][key] = value
    with pytest.raises(TableError, match=said):
        TunedFunnel.from_json(json.dumps(record), "t")


def test_a_funnel_that_saves_no_time_says_so_with_figures() -> None:
    fast = TunedFunnel(plan=PLAN, card=CARD)
    assert not fast.slower
    slow = fast.model_copy(update={"card": CARD.model_copy(update={"exact_us_per_query": 7.0})})
    assert "saves no time among 9,000 rows: it takes 12 µs a query, and comparing every row 7 µs" in slow.slower
    # A funnel of codes is there to save RAM.
    assert not slow.model_copy(update={"plan": PLAN.model_copy(update={"home": "codes"})}).slower
