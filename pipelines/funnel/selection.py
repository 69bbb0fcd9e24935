"""Judging plans: how many candidates a plan needs for a recall target, and what that costs.

Owns the choice and the recall card's numbers; owns no search. A quarter of the queries chooses the plan; the others
then say how many candidates it takes for the interval to lie above the target, and are what the card reports. Because
the last stage is exact, what a plan finds is known for every number of candidates from one long list of them.

Shapes: Q queries, D full width, K candidates, T true neighbours.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from pipelines.funnel.faiss_stages import Floats, Index, Positions
from pipelines.funnel.ground_truth import GroundTruth
from pipelines.funnel.plan import recall_interval
from schemas.errors import TableError
from schemas.plans import CardRow, Plan, RecallCard

Objective = Literal["latency", "throughput"]

MOST_CANDIDATES = 3_200
_SHOWN_KEEPS = (10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, MOST_CANDIDATES)
_STEP = 1.12
_FEWEST_QUERIES, _MOST_QUERIES = 1_000, 16_000
_MOST_CHOOSING = 500
_TIMED_QUERIES = 64
_MARGINS = 100
_WORTH_A_MARGIN = 0.9


@dataclass(frozen=True)
class Goal:
    """What to tune for.

    Attributes:
        recall: What the lower end of the recall's 95 % interval must reach.
        k: Results per query.
        objective: `latency` is one query at a time, `throughput` many in one call.
        queries: Rows to hold out, at most a fifth of the table; None is as many as the interval needs.
        bytes_per_vector: Bytes of RAM that a vector may take; None sets no limit.
        seed: Of the draw of held-out rows.
    """

    recall: float = 0.95
    k: int = 10
    objective: Objective = "latency"
    queries: int | None = None
    bytes_per_vector: int | None = None
    seed: int = 0

    def allows(self, plan: Plan) -> bool:
        """Whether a plan takes no more RAM than a vector may."""
        return self.bytes_per_vector is None or plan.home == "lake" or plan.bytes_per_vector <= self.bytes_per_vector

    def queries_of(self, rows: int) -> int:
        """Return how many of a table's rows to hold out.

        Were every answer perfect, the interval of n queries would reach down to 1 - 3.84 / n; this leaves room to miss.
        """
        wanted = self.queries or min(
            _MOST_QUERIES, max(_FEWEST_QUERIES, math.ceil(16 / (1 - min(self.recall, 0.9999))))
        )
        return min(wanted, rows // 5)


@dataclass(frozen=True, eq=False)
class Trial:
    """A plan to try.

    Attributes:
        plan: With as many candidates as will be looked at.
        candidates: The ids that its stages but the last find for queries (Q, D): (Q, K), best first.
        search: The whole search, to be timed.
        empty: Its trained empty stages, in memory.
    """

    plan: Plan
    candidates: Callable[[Floats, slice], Positions]
    search: Callable[[Plan, Floats], object]
    empty: tuple[Index, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What a card says of the table.

    Attributes:
        rows: Vectors searched.
        version: Version of the table.
        exact_us: Microseconds of an exact query, alone.
        exact_batched_us: In a batch.
    """

    rows: int
    version: int
    exact_us: float
    exact_batched_us: float


@dataclass(frozen=True, eq=False)
class _Judged:
    trial: Trial
    plan: Plan
    row: CardRow
    cost: float


class PlanSelector:
    """Hears trials and names the best."""

    def __init__(self, truth: GroundTruth, queries_QD: Floats, goal: Goal) -> None:
        """PlanSelector by these queries and what is true of them."""
        self._truth, self._queries_QD, self._goal = truth, queries_QD, goal
        split = min(_MOST_CHOOSING, max(1, len(queries_QD) // 4))
        self._choosing, self._vouching = slice(0, split), slice(split, None)
        self._heard: list[_Judged] = []

    @property
    def leaders(self) -> list[Plan]:
        """The plans heard that reach the target, cheapest first."""
        reaching = [judged for judged in self._heard if judged.cost < math.inf]
        return [judged.plan for judged in sorted(reaching, key=lambda judged: judged.cost)]

    def is_hopeless(self, plan: Plan) -> bool:
        """Whether a plan reads many more codes than one that is good enough with few; the exact one never is."""
        best = next(iter(self.leaders), None)
        if best is None or plan.is_exact or best.candidates > 50 * self._goal.k:
            return False
        return plan.stages[0].bytes_per_vector >= best.stages[0].bytes_per_vector + 32

    def hear(self, trial: Trial) -> None:
        """Find the fewest candidates that meet the target for the choosing queries, and time them."""
        ranks_QT = self._ranks(trial, self._choosing)
        keep = self._least_keep(trial, partial(self._likely, ranks_QT))
        plan = trial.plan.keeping(keep) if keep else trial.plan
        row = self._row(plan, ranks_QT, self._time(trial, plan) if keep else (None, None))
        cost = row.us_per_query if self._goal.objective == "latency" else row.us_per_query_batched
        self._heard.append(_Judged(trial, plan, row, math.inf if cost is None else cost))

    def verdict(self, measured: Measured) -> tuple[Trial, RecallCard] | None:
        """Return the cheapest plan that the other queries vouch for, with its card; None if there is none."""
        for judged in sorted(self._heard, key=lambda judged: judged.cost):
            trial = judged.trial
            if judged.cost == math.inf:
                return None
            ranks_QT = self._ranks(trial, self._vouching)
            keep = self._least_keep(trial, partial(self._surely, ranks_QT))
            if keep is not None:
                others = [other.row for other in self._heard if other is not judged]
                return self._vouch(trial, trial.plan.keeping(keep), ranks_QT, others, measured)
        return None

    def card_of(self, trial: Trial, measured: Measured) -> tuple[Trial, RecallCard]:
        """Return the card of a plan that somebody else chose."""
        return self._vouch(trial, trial.plan, self._ranks(trial, self._vouching), [], measured)

    def _vouch(
        self, trial: Trial, plan: Plan, ranks_QT: Positions, others: Sequence[CardRow], measured: Measured
    ) -> tuple[Trial, RecallCard]:
        chosen, most = self._row(plan, ranks_QT, self._time(trial, plan)), trial.plan.candidates
        shown = [n for n in _SHOWN_KEEPS if self._goal.k <= n <= most and n != plan.candidates]
        rows = [chosen, *(self._row(trial.plan.keeping(n), ranks_QT, (None, None)) for n in shown), *others]
        rows.sort(key=_order)
        card = RecallCard(
            k=self._goal.k,
            queries=len(ranks_QT),
            rows_in_table=measured.rows,
            version=measured.version,
            exact_us_per_query=measured.exact_us,
            exact_us_per_query_batched=measured.exact_batched_us,
            chosen=rows.index(chosen),
            rows=tuple(rows),
        )
        return replace(trial, plan=plan), card

    def with_margin(
        self, trial: Trial, card: RecallCard, scored: Callable[[Plan, Floats, slice], tuple[Floats, Positions]]
    ) -> tuple[Trial, RecallCard]:
        """Let easy queries stop early, if the others vouch that this looks at fewer candidates on the average.

        Args:
            trial: What the verdict chose.
            card: Its card.
            scored: Finds cosines and ids (Q, K), best first, as `trial.candidates` finds the ids.

        Returns:
            The trial with twice the candidates and the narrowest margin that reaches the target, and its card; what
            was given where no margin looks at fewer.
        """
        k, asked = self._goal.k, self._vouching
        plan = trial.plan.keeping(min(2 * trial.plan.candidates, MOST_CANDIDATES))
        scores_QK, found_QK = scored(plan, self._queries_QD[asked], asked)
        ranks_QT = self._truth.ranks(found_QK, asked)
        below_QK = scores_QK[:, k - 1 : k] - scores_QK
        for margin in np.quantile(below_QK[np.isfinite(below_QK)], np.arange(1, _MARGINS) / _MARGINS):
            looked_Q = np.maximum(k, (below_QK <= margin).sum(axis=1))
            if looked_Q.mean() > _WORTH_A_MARGIN * card.best.looked_at:
                break
            recall, low, high = recall_interval(self._truth.recall(ranks_QT, looked_Q))
            if low < self._goal.recall:
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

    def _likely(self, ranks_QT: Positions, keep: int) -> float:
        return float(self._truth.recall(ranks_QT, keep).mean())

    def _surely(self, ranks_QT: Positions, keep: int) -> float:
        return recall_interval(self._truth.recall(ranks_QT, keep))[1]

    def most(self) -> float:
        """Return the best recall heard."""
        return max((judged.row.recall for judged in self._heard), default=0.0)

    def _ranks(self, trial: Trial, queries: slice) -> Positions:
        return self._truth.ranks(trial.candidates(self._queries_QD[queries], queries), queries)

    def _least_keep(self, trial: Trial, recall_at: Callable[[int], float]) -> int | None:
        if trial.plan.is_exact:
            return self._goal.k
        most = trial.plan.candidates
        return next((keep for keep in _steps(self._goal.k, most) if recall_at(keep) >= self._goal.recall), None)

    def _row(self, plan: Plan, ranks_QT: Positions, us: tuple[float | None, float | None]) -> CardRow:
        first = plan.stages[0]
        recall, low, high = recall_interval(self._truth.recall(ranks_QT, plan.candidates))
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
        )

    def _time(self, trial: Trial, plan: Plan) -> tuple[float, float]:
        def once(queries_QD: Floats) -> float:
            started = time.perf_counter()
            trial.search(plan, queries_QD)
            return (time.perf_counter() - started) / len(queries_QD) * 1e6

        asked_QD = self._queries_QD[self._choosing]
        alone = statistics.median(once(query_D[None]) for query_D in asked_QD[:_TIMED_QUERIES])
        return alone, min(once(asked_QD) for _ in range(2))


def _order(row: CardRow) -> tuple[float, ...]:
    return row.dims, row.bytes_per_vector, row.probes, row.keep, row.looked_at


def _steps(least: int, most: int) -> Sequence[int]:
    """Numbers of candidates to consider, each a tenth more than the last."""
    count = math.ceil(math.log(max(1, most / least), _STEP))
    return [min(most, round(least * _STEP**power)) for power in range(count + 1)]


def check_rows(rows: int, goal: Goal) -> None:
    """Refuse a table with too few rows to hold any out.

    Raises:
        TableError: The message says how many it takes.
    """
    least = 5 * (goal.k + 1)
    if rows < least:
        raise TableError(f"a funnel is tuned on held-out rows and needs at least {least}; the table has {rows}")
