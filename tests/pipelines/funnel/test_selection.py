"""The choice of a plan, on candidates whose ranks are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipelines.funnel.faiss_stages import Positions
from pipelines.funnel.goal import Goal, check_rows, confirmable_recall, validation_queries
from pipelines.funnel.ground_truth import GroundTruth, recall_interval
from pipelines.funnel.selection import Baseline, PlanSelector, Trial
from pipelines.vectors.arrays import Floats
from schemas.errors import TableError
from schemas.plans import FunnelStage, Plan

QUERIES, KEEP = 400, 300
GOAL = Goal(recall=0.9, k=2)
BASELINE = Baseline(rows=1_000, version=3, exact_us=50.0, exact_batched_us=20.0)


def plan(dims: int = 8, home: str = "memory") -> Plan:
    first = FunnelStage(dims=dims, precision="float16", keep=KEEP)
    return Plan(stages=(first, FunnelStage(dims=64, precision="float16", keep=2)), home=home, k=2)


def candidates_with(place: int, count: int) -> Positions:
    """Candidates (count, KEEP) with the true neighbours 0 and 1 at a place and the next."""
    found = np.arange(1_000, 1_000 + KEEP)
    found[place : place + 2] = [0, 1][: KEEP - place]
    return np.tile(found, (count, 1))


def trial(place: int, dims: int = 8, home: str = "memory", fewer: int = 0) -> Trial:
    """A trial whose search ranks `fewer` candidates than its plan says."""

    def search(tried: Plan, x_QD: Floats, _: slice) -> tuple[Positions, Positions]:
        ranked = tried.candidates - fewer
        return candidates_with(place, len(x_QD))[:, :ranked], np.full(len(x_QD), ranked)

    return Trial(plan(dims, home), lambda _, x_QD, __: candidates_with(place, len(x_QD)), search, lambda _, __, ___: {})


@pytest.fixture
def selector() -> PlanSelector:
    truth = GroundTruth(2, [np.array([0])] * QUERIES, [np.array([1])] * QUERIES)
    return PlanSelector(truth, np.zeros((QUERIES, 64), np.float32), GOAL)


def test_the_fewest_candidates_that_reach_the_target_are_chosen(selector: PlanSelector) -> None:
    selector.evaluate(trial(place=20))
    best = selector.decide(BASELINE)
    assert best is not None
    chosen, card = best
    assert 22 <= chosen.plan.candidates <= 25
    assert card.best.keep == chosen.plan.candidates
    assert card.queries == QUERIES - 100
    assert card.best.recall == 1
    assert GOAL.recall < card.best.low < 1
    assert (card.rows_in_table, card.version, card.exact_us_per_query) == (1_000, 3, 50.0)
    assert {row.recall for row in card if row.keep < 21} == {0.0}


def test_what_a_search_finds_decides_and_is_on_the_card(selector: PlanSelector) -> None:
    short = trial(place=20, fewer=10)
    selector.evaluate(short)
    best = selector.decide(BASELINE)
    assert best is not None
    assert 32 <= best[0].plan.candidates <= 36
    assert best[1].best.looked_at == best[0].plan.candidates - 10
    without_target = PlanSelector(selector._truth, np.zeros((QUERIES, 64), np.float32), Goal(k=2))
    given, card = without_target.confirm(replace(short, plan=plan().keeping(25)), BASELINE)
    assert (given.plan.candidates, card.best.keep, card.best.looked_at, card.best.recall) == (25, 25, 15, 0)


def test_plans_that_miss_the_target_are_on_no_card(selector: PlanSelector) -> None:
    selector.evaluate(trial(place=KEEP - 1))  # only one of the two neighbours is there
    assert selector.leaders == []
    assert selector.best_recall == 0.5
    assert selector.decide(BASELINE) is None


def test_the_plan_that_compares_full_vectors_is_judged_like_any_other(selector: PlanSelector) -> None:
    assert plan(dims=64).is_exact
    selector.evaluate(trial(place=KEEP - 1, dims=64))
    assert selector.decide(BASELINE) is None
    assert "best reached 0.5000; 300 test queries without a miss confirm 0.98" in selector.shortfall


def test_given_stages_are_confirmed_as_they_are_unless_a_recall_is_asked_of_them(selector: PlanSelector) -> None:
    with pytest.raises(TableError, match=r"not sure to reach recall 0.9: .* recall@2 0.5000 .*; nothing is stored"):
        selector.confirm(trial(place=KEEP - 1), BASELINE)
    truth = GroundTruth(2, [np.array([0])] * QUERIES, [np.array([1])] * QUERIES)
    without_target = PlanSelector(truth, np.zeros((QUERIES, 64), np.float32), Goal(k=2))
    confirmed, card = without_target.confirm(trial(place=KEEP - 1), BASELINE)
    assert confirmed.plan == plan()
    assert card.best.recall == 0.5


def test_the_card_says_which_queries_chose_and_which_confirm(selector: PlanSelector) -> None:
    selector.evaluate(trial(place=20))
    selector.evaluate(trial(place=40, dims=16))
    best = selector.decide(BASELINE)
    assert best is not None
    card = best[1]
    assert (card.validation_queries, card.queries) == (100, 300)
    splits = {(row.dims, row.split) for row in card}
    assert splits in ({(8, "test"), (16, "validation")}, {(8, "validation"), (16, "test")})
    assert card.best.split == "test"
    assert "100 queries chose the plan (*), 300 others confirm it" in str(card)


def test_larger_codes_than_those_of_a_good_plan_are_hopeless_unless_exact(selector: PlanSelector) -> None:
    assert not selector.is_hopeless(plan(dims=32))
    selector.evaluate(trial(place=20))
    assert selector.is_hopeless(plan(dims=32))
    assert not selector.is_hopeless(plan(dims=16))
    assert not selector.is_hopeless(plan(dims=64))  # compares the full vectors: exact


def test_a_margin_lets_easy_queries_stop_early(selector: PlanSelector) -> None:
    def scored(_: Plan, x_QD: Floats, __: slice) -> tuple[Floats, Positions]:
        is_easy_Q = np.arange(len(x_QD)) % 2 == 0
        found_QK = np.where(is_easy_Q[:, None], candidates_with(0, len(x_QD)), candidates_with(98, len(x_QD)))
        easy_K, hard_K = np.linspace(0.5, 0, KEEP), np.linspace(0.9, 0.89, KEEP)
        easy_K[:2] = 1
        return np.where(is_easy_Q[:, None], easy_K, hard_K).astype(np.float32), found_QK

    def search(tried: Plan, x_QD: Floats, which: slice) -> tuple[Positions, Positions]:
        scores_QK, found_QK = scored(tried, x_QD, which)
        margin = math.inf if tried.margin is None else tried.margin
        ranked_QK = (scores_QK >= scores_QK[:, 1:2] - margin) & (np.arange(KEEP) < tried.candidates)
        return np.where(ranked_QK, found_QK, -1), ranked_QK.sum(axis=1)

    in_lake = Trial(
        plan(home="lake"),
        lambda tried, x_QD, which: scored(tried, x_QD, which)[1],
        search,
        lambda _, __, ___: {},
    )
    selector.evaluate(in_lake)
    best = selector.decide(BASELINE)
    assert best is not None
    chosen, card = selector.add_margin(*best, scored)
    assert chosen.plan.margin == card.best.margin
    assert card.best.margin is not None
    assert card.best.low >= GOAL.recall
    assert card.best.looked_at < 0.9 * best[1].best.looked_at


def test_what_a_goal_asks_for() -> None:
    assert Goal(recall=0.95).held_out_rows(100_000) == 1_000
    assert Goal(recall=0.999).held_out_rows(1_000_000) == 16_000
    with pytest.raises(TableError, match="500 rows cannot be held out as queries: a fifth of the table's 1,000"):
        check_rows(1_000, Goal(queries=500), None)
    check_rows(1_000, Goal(queries=500), 500)
    assert not Goal(bytes_per_vector=16).allows(plan())
    assert Goal(bytes_per_vector=16).allows(plan(home="lake"))
    with pytest.raises(TableError, match="needs at least 55; the table has 54"):
        check_rows(54, Goal(), None)


@pytest.mark.parametrize(
    ("rows", "goal", "queries", "ways"),
    [
        (301, Goal(), None, ("60, a fifth of the 301 rows", "--queries FILE", "485 rows", "--recall 0.92")),
        (1_000, Goal(queries=20), None, ("20 rows held out", "--held-out 97", "--recall 0.79")),
        (1_000, Goal(), 20, ("20 given", "give 97 or more", "--recall 0.79")),
    ],
)
def test_too_few_queries_for_a_recall_name_the_ways_out(
    rows: int, goal: Goal, queries: int | None, ways: Sequence[str]
) -> None:
    with pytest.raises(TableError) as refused:
        check_rows(rows, goal, queries)
    assert [way for way in ways if way not in str(refused.value)] == []
    check_rows(rows, goal, queries, has_stages=True)  # held to no recall
    # Each way out is one: the rows, the queries and the recall that it names are enough.
    check_rows(485, Goal(), None)
    check_rows(1_000, Goal(queries=97), None)
    check_rows(rows, Goal(recall=0.79, queries=goal.queries), queries)


@pytest.mark.parametrize("queries", [2, 20, 97, 4_000])
def test_what_queries_confirm_is_the_interval_of_a_plan_without_a_miss(queries: int) -> None:
    tests = np.ones(queries - validation_queries(queries))
    assert confirmable_recall(queries) == pytest.approx(recall_interval(tests)[1])
