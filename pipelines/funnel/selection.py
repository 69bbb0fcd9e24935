"""Choose the plan that reaches a recall target at the least measured cost, and write its recall card.

Owns the choice and the numbers on the card. Owns no search: each `Trial` brings its own.

A quarter of the queries, at most 500, is the validation split: it chooses the plan and the number of candidates. The
others are the test split: the lower end of their 95 % interval must reach the target, and the card reports their
recall. The last stage is exact, so one long list of candidates estimates the recall for every shorter list. The chosen
plan is then searched as the funnel will be, so its row of the card speaks of what a search finds and compares.

Shapes: Q queries, D full width, K candidates.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.funnel.faiss_stages import Index, Positions
from pipelines.funnel.goal import Goal, confirmable_recall, validation_queries
from pipelines.funnel.ground_truth import GroundTruth, recall_interval
from pipelines.funnel.rerank import Counts
from pipelines.vectors.arrays import Floats
from schemas.cards import CardRow, RecallCard
from schemas.errors import TableError
from schemas.plans import Plan

MAX_CANDIDATES = 3_200
USUAL_QUERIES = 250
"""Test queries that show what is usual."""
_SHOWN_KEEPS = (10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, MAX_CANDIDATES)
_STEP = 1.12
_TIMED_QUERIES = 64
# What takes less is timed twice.
_SHORT_US = 500_000
_MARGINS = 100
# A margin must bring the mean number of candidates below this share of what it is without one.
_MARGIN_MUST_SAVE = 0.9


@dataclass(frozen=True, eq=False)
class Trial:
    """Hold one plan to try, with its search.

    Attributes:
        plan: The plan, with the largest number of candidates to consider.
        candidates: Finds candidates with all stages of a plan but the last. Takes the plan, queries (Q, D) and which of
            all queries these are; returns ids (Q, K), best first.
        search: Searches as the funnel will. It takes what `candidates` takes; returns ids (Q, k), and the number (Q,)
            of full vectors compared.
        usual: Returns what is usual for queries, as the settings of a plan that widen a search for other ones. It takes
            what `candidates` takes.
        empty: The plan's trained, empty stages; none in the lake.
        spare: A search ranks at least this many candidates more than it returns.
    """

    plan: Plan
    candidates: Callable[[Plan, Floats, slice], Positions]
    search: Callable[[Plan, Floats, slice], tuple[Positions, Counts]]
    usual: Callable[[Plan, Floats, slice], dict[str, Any]]
    empty: tuple[Index, ...] = ()
    spare: int = 0

    def ranked(self, keep: int) -> int:
        """Return the number of candidates that a search ranks, if its plan keeps so many."""
        return max(keep, self.plan.k + self.spare)


@dataclass(frozen=True)
class Baseline:
    """Describe the table and the exact search that a card compares with.

    Attributes:
        rows: Vectors in the table.
        version: Version of the table.
        exact_us: Microseconds of one exact query at a time.
        exact_batched_us: Microseconds per exact query, many in one call.
    """

    rows: int
    version: int
    exact_us: float
    exact_batched_us: float


@dataclass(frozen=True, eq=False)
class _Evaluated:
    """One trial on the validation split; `cost` is infinite if it misses the target."""

    trial: Trial
    plan: Plan
    row: CardRow
    cost: float


class PlanSelector:
    """Evaluates trials and decides which plan is best."""

    def __init__(self, truth: GroundTruth, query_QD: Floats, goal: Goal) -> None:
        """Split the queries.

        Args:
            truth: Exact neighbours of the queries.
            query_QD: float32 unit rows.
            goal: What to tune for.
        """
        self._truth, self._query_QD, self._goal = truth, query_QD, goal
        split = validation_queries(len(query_QD))
        self._validation, self._test = slice(0, split), slice(split, None)
        self._evaluated: list[_Evaluated] = []

    @property
    def leaders(self) -> list[Plan]:
        """The evaluated plans that reach the target, cheapest first."""
        reaching = [evaluated for evaluated in self._evaluated if evaluated.cost < math.inf]
        return [evaluated.plan for evaluated in sorted(reaching, key=lambda evaluated: evaluated.cost)]

    def is_hopeless(self, plan: Plan) -> bool:
        """Tell whether a plan cannot win: its codes are much larger than those of a good plan with few candidates.

        The exact plan is never hopeless.
        """
        best = next(iter(self.leaders), None)
        if best is None or plan.is_exact or best.candidates > 50 * self._goal.k:
            return False
        return plan.stages[0].bytes_per_vector >= best.stages[0].bytes_per_vector + 32

    def evaluate(self, trial: Trial) -> None:
        """Find the fewest candidates that reach the target on the validation split, and time the search with them."""
        ranks_QK = self._ranks(trial, self._validation)
        keep = next((n for n in _keeps(trial) if self._truth.recall(ranks_QK, n).mean() >= self._goal.target), None)
        plan = trial.plan.keeping(keep) if keep else trial.plan
        row = self._estimate(trial, plan, ranks_QK, "validation")
        if keep:
            row = row.model_copy(update=self._time(trial, plan))
        cost = row.us_per_query if self._goal.objective == "latency" else row.us_per_query_batched
        self._evaluated.append(_Evaluated(trial, plan, row, math.inf if cost is None else cost))

    def decide(self, baseline: Baseline) -> tuple[Trial, RecallCard] | None:
        """Return the cheapest plan whose recall the test split confirms, with its card; None if there is none."""
        for evaluated in sorted(self._evaluated, key=lambda evaluated: evaluated.cost):
            trial = evaluated.trial
            if evaluated.cost == math.inf:
                return None
            ranks_QK = self._ranks(trial, self._test)
            for keep in _keeps(trial):
                if recall_interval(self._truth.recall(ranks_QK, keep))[1] >= self._goal.target:
                    plan, row = self._searched(trial, trial.plan.keeping(keep))
                    if row.low >= self._goal.target:
                        others = [other.row for other in self._evaluated if other is not evaluated]
                        return replace(trial, plan=plan), self._write_card(trial, row, ranks_QK, others, baseline)
        return None

    def confirm(self, trial: Trial, baseline: Baseline) -> tuple[Trial, RecallCard]:
        """Return a plan as it is, with its card from the test split.

        Raises:
            TableError: The goal names a recall that the test split does not confirm.
        """
        plan, row = self._searched(trial, trial.plan)
        card = self._write_card(trial, row, self._ranks(trial, self._test), [], baseline)
        if self._goal.recall is not None and card.best.low < self._goal.recall:
            raise TableError(
                f"these stages are not sure to reach recall {self._goal.recall}: {card.queries} test queries have "
                f"recall@{card.k} {card.best.recall:.4f} ({card.best.low:.4f}-{card.best.high:.4f}); nothing is "
                "stored. Keep more candidates, or name no recall to store the stages with the recall that they have"
            )
        return replace(trial, plan=plan), card

    def _write_card(
        self, trial: Trial, chosen: CardRow, ranks_QK: Positions, others: Sequence[CardRow], baseline: Baseline
    ) -> RecallCard:
        least, most = trial.ranked(self._goal.k), trial.plan.candidates
        shown = [n for n in _SHOWN_KEEPS if least <= n <= most and n != chosen.keep]
        rows = [chosen, *(self._estimate(trial, trial.plan.keeping(n), ranks_QK, "test") for n in shown), *others]
        rows.sort(key=_order)
        return RecallCard(
            k=self._goal.k,
            queries=len(ranks_QK),
            validation_queries=self._validation.stop,
            rows_in_table=baseline.rows,
            version=baseline.version,
            exact_us_per_query=baseline.exact_us,
            exact_us_per_query_batched=baseline.exact_batched_us,
            chosen=rows.index(chosen),
            rows=tuple(rows),
        )

    def add_margin(
        self, trial: Trial, card: RecallCard, scored: Callable[[Plan, Floats, slice], tuple[Floats, Positions]]
    ) -> tuple[Trial, RecallCard]:
        """Let easy queries stop early, if the test split confirms that this ranks fewer candidates on average.

        Args:
            trial: The trial that `decide` returned.
            card: Its card.
            scored: Finds candidates as `trial.candidates` does, with their cosines: (Q, K) each, best first.

        Returns:
            The trial with twice the candidates and the narrowest margin that reaches the target, and its card. The
            arguments unchanged, if no margin saves enough.
        """
        k, asked, most = self._goal.k, self._test, _MARGIN_MUST_SAVE * card.best.looked_at
        plan = trial.plan.keeping(min(2 * trial.plan.candidates, MAX_CANDIDATES))
        scores_QK, found_QK = scored(plan, self._query_QD[asked], asked)
        ranks_QK = self._truth.ranks(found_QK, asked)
        below_QK = scores_QK[:, k - 1 : k] - scores_QK
        for margin in np.quantile(below_QK[np.isfinite(below_QK)], np.arange(1, _MARGINS) / _MARGINS):
            looked_Q = np.maximum(k, (below_QK <= margin).sum(axis=1))
            if looked_Q.mean() > most:
                break
            if recall_interval(self._truth.recall(ranks_QK, looked_Q))[1] < self._goal.target:
                continue
            tried, row = self._searched(trial, plan.model_copy(update={"margin": float(margin)}))
            if row.looked_at > most:
                break
            if row.low >= self._goal.target:
                rows = sorted([row, *(other for other in card.rows if other is not card.best)], key=_order)
                with_row = card.model_copy(update={"rows": tuple(rows), "chosen": rows.index(row)})
                return replace(trial, plan=tried), with_row
        return trial, card

    @property
    def shortfall(self) -> str:
        """Say how far the trials were from the target, and what the test queries can confirm at all."""
        queries = len(self._query_QD)
        if not self._evaluated and self._goal.bytes_per_vector is not None:
            return "none is as small as that"
        return (
            f"the best reached {self.best_recall:.4f}; {queries - self._validation.stop} test queries "
            f"without a miss confirm {confirmable_recall(queries):.4f}"
        )

    @property
    def test(self) -> tuple[slice, Floats]:
        """Which of the queries are the test split, and the split (Q, D)."""
        return self._test, self._query_QD[self._test]

    @property
    def best_recall(self) -> float:
        """The best recall of all evaluated trials."""
        return max((evaluated.row.recall for evaluated in self._evaluated), default=0.0)

    def _ranks(self, trial: Trial, queries: slice) -> Positions:
        return self._truth.ranks(trial.candidates(trial.plan, self._query_QD[queries], queries), queries)

    def _searched(self, trial: Trial, plan: Plan) -> tuple[Plan, CardRow]:
        """Search the test split as the funnel will; return the plan with what is usual, and its row of the card."""
        asked_QD = self._query_QD[self._test]
        some = slice(self._test.start, self._test.start + USUAL_QUERIES)
        plan = plan.model_copy(update=trial.usual(plan, asked_QD[:USUAL_QUERIES], some))
        rows_QK, compared_Q = trial.search(plan, asked_QD, self._test)
        recall_Q = self._truth.recall(self._truth.ranks(rows_QK, self._test), rows_QK.shape[1])
        row = _row(plan, recall_Q, float(compared_Q.mean()), "test")
        return plan, row.model_copy(update=self._time(trial, plan))

    def _estimate(self, trial: Trial, plan: Plan, ranks_QK: Positions, split: Literal["validation", "test"]) -> CardRow:
        """Return the row of a plan that differs from the trial's in its number of candidates only."""
        ranked = trial.ranked(plan.candidates)
        return _row(plan, self._truth.recall(ranks_QK, ranked), ranked, split)

    def _time(self, trial: Trial, plan: Plan) -> dict[str, float]:
        def once(start: int, stop: int) -> float:
            started = time.perf_counter()
            trial.search(plan, self._query_QD[start:stop], slice(start, stop))
            return (time.perf_counter() - started) / (stop - start) * 1e6

        count = self._validation.stop
        alone = statistics.median(once(place, place + 1) for place in range(min(count, _TIMED_QUERIES)))
        batched = once(0, count)
        if batched * count < _SHORT_US:
            batched = min(batched, once(0, count))
        return {"us_per_query": alone, "us_per_query_batched": batched}


def _row(
    plan: Plan, recall_Q: npt.NDArray[np.float64], looked_at: float, split: Literal["validation", "test"]
) -> CardRow:
    first = plan.stages[0]
    recall, low, high = recall_interval(recall_Q)
    return CardRow(
        dims=first.dims,
        precision=first.precision,
        keep=plan.candidates,
        probes=plan.probes,
        margin=plan.margin,
        looked_at=looked_at,
        recall=recall,
        low=low,
        high=high,
        us_per_query=None,
        us_per_query_batched=None,
        bytes_per_vector=plan.bytes_per_vector,
        split=split,
    )


def _order(row: CardRow) -> tuple[float, ...]:
    return row.dims, row.bytes_per_vector, row.probes, row.keep, row.looked_at


def _keeps(trial: Trial) -> Sequence[int]:
    """Return the numbers of candidates to consider, each about a tenth more than the last."""
    least, most = trial.ranked(trial.plan.k), trial.plan.candidates
    count = math.ceil(math.log(max(1, most / least), _STEP))
    return [min(most, round(least * _STEP**power)) for power in range(count + 1)]
