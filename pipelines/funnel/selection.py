"""Choose the plan that reaches a recall target at the least measured cost, and write its recall card.

Owns the choice and the numbers on the card. Owns no search: each `Trial` brings its own.

A quarter of the queries, at most 500, is the validation split: it chooses the plan and the number of candidates. The
others are the test split: the lower end of their 95 % interval must reach the target, and the card reports their
recall. The last stage is exact, so one long list of candidates tells the recall for every shorter list. Every plan is
judged so, the one that compares full vectors too.

Shapes: Q queries, D full width, K candidates.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from pipelines.funnel.faiss_stages import Index, Positions
from pipelines.funnel.goal import Goal, confirmable_recall, validation_queries
from pipelines.funnel.ground_truth import GroundTruth, recall_interval
from pipelines.vectors.arrays import Floats
from schemas.cards import CardRow, RecallCard
from schemas.errors import TableError
from schemas.plans import Plan

MAX_CANDIDATES = 3_200
_SHOWN_KEEPS = (10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, MAX_CANDIDATES)
_STEP = 1.12
_TIMED_QUERIES = 64
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
        search: Runs all stages, to be timed.
        usual: Returns what is usual for queries, as the settings of a plan that widen a search for other ones. It takes
            what `candidates` takes.
        empty: The plan's trained, empty stages; none in the lake.
        is_given: Whether the stages are the user's.
    """

    plan: Plan
    candidates: Callable[[Plan, Floats, slice], Positions]
    search: Callable[[Plan, Floats], object]
    usual: Callable[[Plan, Floats, slice], dict[str, Any]]
    empty: tuple[Index, ...] = ()
    is_given: bool = False


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
        keep = self._least_keep(trial, partial(self._mean_recall, ranks_QK))
        plan = trial.plan.keeping(keep) if keep else trial.plan
        row = self._row(plan, ranks_QK, self._time(trial, plan) if keep else (None, None), "validation")
        cost = row.us_per_query if self._goal.objective == "latency" else row.us_per_query_batched
        self._evaluated.append(_Evaluated(trial, plan, row, math.inf if cost is None else cost))

    def decide(self, baseline: Baseline) -> tuple[Trial, RecallCard] | None:
        """Return the cheapest plan whose recall the test split confirms, with its card; None if there is none."""
        for evaluated in sorted(self._evaluated, key=lambda evaluated: evaluated.cost):
            trial = evaluated.trial
            if evaluated.cost == math.inf:
                return None
            ranks_QK = self._ranks(trial, self._test)
            keep = self._least_keep(trial, partial(self._low_recall, ranks_QK))
            if keep is not None:
                others = [other.row for other in self._evaluated if other is not evaluated]
                return self._write_card(trial, trial.plan.keeping(keep), ranks_QK, others, baseline)
        return None

    def confirm(self, trial: Trial, baseline: Baseline) -> tuple[Trial, RecallCard]:
        """Return a plan as it is, with its card from the test split.

        Raises:
            TableError: The goal names a recall that the test split does not confirm.
        """
        trial, card = self._write_card(trial, trial.plan, self._ranks(trial, self._test), [], baseline)
        if self._goal.recall is not None and card.best.low < self._goal.recall:
            raise TableError(
                f"these stages are not sure to reach recall {self._goal.recall}: {card.queries} test queries have "
                f"recall@{card.k} {card.best.recall:.4f} ({card.best.low:.4f}-{card.best.high:.4f}); nothing is "
                "stored. Keep more candidates, or name no recall to store the stages with the recall that they have"
            )
        return trial, card

    def _write_card(
        self, trial: Trial, plan: Plan, ranks_QK: Positions, others: Sequence[CardRow], baseline: Baseline
    ) -> tuple[Trial, RecallCard]:
        chosen, most = self._row(plan, ranks_QK, self._time(trial, plan)), trial.plan.candidates
        shown = [n for n in _SHOWN_KEEPS if self._goal.k <= n <= most and n != plan.candidates]
        rows = [chosen, *(self._row(trial.plan.keeping(n), ranks_QK, (None, None)) for n in shown), *others]
        rows.sort(key=_order)
        card = RecallCard(
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
        return replace(trial, plan=plan), card

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
        k, asked = self._goal.k, self._test
        plan = trial.plan.keeping(min(2 * trial.plan.candidates, MAX_CANDIDATES))
        scores_QK, found_QK = scored(plan, self._query_QD[asked], asked)
        ranks_QK = self._truth.ranks(found_QK, asked)
        below_QK = scores_QK[:, k - 1 : k] - scores_QK
        for margin in np.quantile(below_QK[np.isfinite(below_QK)], np.arange(1, _MARGINS) / _MARGINS):
            looked_Q = np.maximum(k, (below_QK <= margin).sum(axis=1))
            if looked_Q.mean() > _MARGIN_MUST_SAVE * card.best.looked_at:
                break
            recall, low, high = recall_interval(self._truth.recall(ranks_QK, looked_Q))
            if low < self._goal.target:
                continue
            plan = plan.model_copy(update={"margin": float(margin)})
            alone, batched = self._time(trial, plan)
            row = card.best.model_copy(
                update={
                    "keep": plan.candidates,
                    "margin": plan.margin,
                    "looked_at": float(looked_Q.mean()),
                    "recall": recall,
                    "low": low,
                    "high": high,
                    "us_per_query": alone,
                    "us_per_query_batched": batched,
                }
            )
            rows = sorted([*card.rows, row], key=_order)
            return replace(trial, plan=plan), card.model_copy(update={"rows": tuple(rows), "chosen": rows.index(row)})
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

    def _mean_recall(self, ranks_QK: Positions, keep: int) -> float:
        return float(self._truth.recall(ranks_QK, keep).mean())

    def _low_recall(self, ranks_QK: Positions, keep: int) -> float:
        return recall_interval(self._truth.recall(ranks_QK, keep))[1]

    @property
    def best_recall(self) -> float:
        """The best recall of all evaluated trials."""
        return max((evaluated.row.recall for evaluated in self._evaluated), default=0.0)

    def _ranks(self, trial: Trial, queries: slice) -> Positions:
        return self._truth.ranks(trial.candidates(trial.plan, self._query_QD[queries], queries), queries)

    def _least_keep(self, trial: Trial, recall_at: Callable[[int], float]) -> int | None:
        most = trial.plan.candidates
        return next((keep for keep in _steps(self._goal.k, most) if recall_at(keep) >= self._goal.target), None)

    def _row(
        self,
        plan: Plan,
        ranks_QK: Positions,
        us: tuple[float | None, float | None],
        split: Literal["validation", "test"] = "test",
    ) -> CardRow:
        first = plan.stages[0]
        recall, low, high = recall_interval(self._truth.recall(ranks_QK, plan.candidates))
        return CardRow(
            dims=first.dims,
            precision=first.precision,
            keep=plan.candidates,
            probes=plan.probes,
            looked_at=plan.candidates,
            recall=recall,
            low=low,
            high=high,
            us_per_query=us[0],
            us_per_query_batched=us[1],
            bytes_per_vector=plan.bytes_per_vector,
            split=split,
        )

    def _time(self, trial: Trial, plan: Plan) -> tuple[float, float]:
        def once(query_QD: Floats) -> float:
            started = time.perf_counter()
            trial.search(plan, query_QD)
            return (time.perf_counter() - started) / len(query_QD) * 1e6

        asked_QD = self._query_QD[self._validation]
        alone = statistics.median(once(query_D[None]) for query_D in asked_QD[:_TIMED_QUERIES])
        return alone, min(once(asked_QD) for _ in range(2))


def _order(row: CardRow) -> tuple[float, ...]:
    return row.dims, row.bytes_per_vector, row.probes, row.keep, row.looked_at


def _steps(least: int, most: int) -> Sequence[int]:
    """Return the numbers of candidates to consider, each about a tenth more than the last."""
    count = math.ceil(math.log(max(1, most / least), _STEP))
    return [min(most, round(least * _STEP**power)) for power in range(count + 1)]
