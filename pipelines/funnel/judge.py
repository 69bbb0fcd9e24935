"""Judging plans: how many candidates a first stage needs for a recall target, and what that costs.

Owns the recall card's numbers; owns no search. One half of the queries chooses and the other half must confirm it,
and is what the card says. Because the last stage is exact, what a first stage finds is known for every number of
candidates from one long list of them. Shapes: Q queries, D full width, T true neighbours.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipelines.funnel.chain import Floats, Index, Positions
from pipelines.funnel.plan import CardRow, Plan, RecallCard, recall_interval
from pipelines.funnel.truth import Truth
from schemas.errors import TableError

Objective = Literal["latency", "throughput"]

KEEPS = (10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, 3200)
_TIMED_QUERIES = 64


@dataclass(frozen=True)
class Goal:
    """What to tune for.

    Attributes:
        recall: What the lower end of the recall's 95 % interval must reach.
        k: Results per query.
        objective: `latency` is one query at a time, `throughput` many in one call.
        queries: Rows held out, at most a fifth of the table.
        seed: Of the draw of held-out rows.
    """

    recall: float = 0.95
    k: int = 10
    objective: Objective = "latency"
    queries: int = 2_000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Trial:
    """A plan tried out: what its first stage found of the truth, and how to time it."""

    plan: Plan
    ranks_QT: Positions
    search: Callable[[Plan, Floats], object]
    empty: tuple[Index, ...] = ()


class Judge:
    """Judges trials and remembers the best."""

    def __init__(self, truth: Truth, queries_QD: Floats, goal: Goal) -> None:
        """Judge by these queries and what is true of them."""
        self.truth, self.queries_QD, self.goal = truth, queries_QD, goal
        self.rows: list[CardRow] = []
        self.best: Trial
        self.best_row: CardRow | None = None

    def is_hopeless(self, plan: Plan) -> bool:
        """Whether a plan reads twice the codes of one that is good enough with few candidates."""
        best = self.best_row
        return (
            best is not None and best.keep <= 50 * self.goal.k and plan.bytes_per_vector - best.bytes_per_vector >= 32
        )

    def hear(self, trial: Trial) -> None:
        """Find the fewest candidates that meet the target, time them, and keep the trial if it is the cheapest."""
        is_exact = (
            trial.plan.stages[0].dims == trial.plan.stages[-1].dims and trial.plan.stages[0].precision == "float16"
        )
        keep = 2 * self.goal.k if is_exact else self._least_keep(trial)
        if keep is None:
            self.rows.append(self._row(trial, trial.plan, timed=False))
            return
        plan = trial.plan.keeping(keep)
        row = self._row(trial, plan, timed=True)
        self.rows.append(row)
        if self.best_row is None or self._cost(row) < self._cost(self.best_row):
            self.best, self.best_row = Trial(plan, trial.ranks_QT, trial.search, trial.empty), row

    def card(self, rows_in_table: int, version: int, exact_us: float, exact_batched_us: float) -> RecallCard:
        """Lay out everything judged, and the best plan at every number of candidates."""
        others = [
            self._row(self.best, self.best.plan.keeping(keep), timed=False) for keep in KEEPS if keep >= self.goal.k
        ]
        assert self.best_row is not None
        rows = sorted(
            {(r.dims, r.precision, r.bytes_per_vector, r.probes, r.keep): r for r in [*others, *self.rows]}.values(),
            key=lambda r: (r.dims, r.bytes_per_vector, r.probes, r.keep),
        )
        return RecallCard(
            k=self.goal.k,
            queries=len(self.queries_QD) // 2,
            rows_in_table=rows_in_table,
            version=version,
            exact_us_per_query=exact_us,
            exact_us_per_query_batched=exact_batched_us,
            chosen=rows.index(self.best_row),
            rows=tuple(rows),
        )

    def _least_keep(self, trial: Trial) -> int | None:
        for keep in KEEPS:
            recall_Q = self.truth.recall(trial.ranks_QT, keep)
            if keep >= self.goal.k and all(
                recall_interval(recall_Q[half::2])[1] >= self.goal.recall for half in (0, 1)
            ):
                return keep
        return None

    def _row(self, trial: Trial, plan: Plan, *, timed: bool) -> CardRow:
        first = plan.stages[0]
        recall, low, high = recall_interval(self.truth.recall(trial.ranks_QT, first.keep)[1::2])
        single, batched = self._time(trial, plan) if timed else (None, None)
        return CardRow(
            dims=first.dims,
            precision=first.precision,
            keep=first.keep,
            probes=plan.probes,
            recall=recall,
            low=low,
            high=high,
            us_per_query=single,
            us_per_query_batched=batched,
            bytes_per_vector=plan.bytes_per_vector,
        )

    def _time(self, trial: Trial, plan: Plan) -> tuple[float, float]:
        def once(queries_QD: Floats) -> float:
            started = time.perf_counter()
            trial.search(plan, queries_QD)
            return (time.perf_counter() - started) / len(queries_QD) * 1e6

        timed_QD = self.queries_QD[:_TIMED_QUERIES]
        return statistics.median(once(query_D[None]) for query_D in timed_QD), min(once(timed_QD) for _ in range(3))

    def _cost(self, row: CardRow) -> float:
        cost = row.us_per_query if self.goal.objective == "latency" else row.us_per_query_batched
        return float("inf") if cost is None else cost


def check_rows(rows: int, goal: Goal) -> None:
    """Refuse a table with too few rows to hold any out.

    Raises:
        TableError: The message says how many it takes.
    """
    least = 5 * (goal.k + 1)
    if rows < least:
        raise TableError(f"a funnel is tuned on held-out rows and needs at least {least}; the table has {rows}")
