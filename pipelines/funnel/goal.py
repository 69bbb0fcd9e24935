"""State what a funnel is tuned for.

Owns the goal, and how many queries and rows it needs. Owns no measurement.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipelines.funnel.ground_truth import Z_OF_95
from schemas.config import check_choice, check_number, check_whole
from schemas.config.bounds import MAX_COUNT, MAX_K, MAX_SEED
from schemas.errors import TableError
from schemas.plans import MOST_ROWS, Plan

Objective = Literal["latency", "throughput"]

_RECALL = 0.95
_MIN_QUERIES, _MAX_QUERIES = 1_000, 16_000
_MAX_VALIDATION_QUERIES = 500
_MOST_QUERIES = 10**9


@dataclass(frozen=True)
class Goal:
    """State what to tune for.

    Attributes:
        recall: Least value of the lower end of the 95 % interval of recall@k. None: 0.95 where the tuner chooses the
            plan; no target where the stages are given.
        k: Results per query.
        objective: Time to minimise: `latency` of one query at a time, or `throughput` of many in one call.
        queries: Rows to hold out as queries, at most a fifth of the table; None: as many as the interval needs.
        bytes_per_vector: Bytes of RAM that a vector may take; None: no limit.
        seed: Seed of the draw of held-out rows.

    Raises:
        ConfigError: A value is outside its bounds.

    Example:
        >>> Goal(recall=0.99, objective="throughput", bytes_per_vector=64)
    """

    recall: float | None = None
    k: int = 10
    objective: Objective = "latency"
    queries: int | None = None
    bytes_per_vector: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.recall is not None:
            check_number(0, 1, recall=self.recall)
        if self.queries is not None:
            check_whole(2, MOST_ROWS, queries=self.queries)
        if self.bytes_per_vector is not None:
            check_whole(1, MAX_COUNT, bytes_per_vector=self.bytes_per_vector)
        check_whole(1, MAX_K, k=self.k)
        check_whole(0, MAX_SEED, seed=self.seed)
        check_choice(get_args(Objective), objective=self.objective)

    @property
    def target(self) -> float:
        """The recall that a plan must reach for the tuner to choose it."""
        return _RECALL if self.recall is None else self.recall

    def allows(self, plan: Plan) -> bool:
        """Tell whether a plan keeps to the limit of RAM."""
        return self.bytes_per_vector is None or plan.home == "lake" or plan.bytes_per_vector <= self.bytes_per_vector

    def held_out_rows(self, rows: int) -> int:
        """Return how many rows of a table of `rows` to hold out as queries.

        With n queries and no miss, the interval reaches down to 1 - 3.84 / n. 16 / (1 - recall) leaves room for misses.
        """
        wanted = self.queries or min(_MAX_QUERIES, max(_MIN_QUERIES, math.ceil(16 / (1 - min(self.target, 0.9999)))))
        return min(wanted, rows // 5)

    def draw(self, rows: int, most: int = _MAX_QUERIES) -> npt.NDArray[np.int64]:
        """Draw the places of the rows that serve as queries, in random order, so that any part of them is random.

        Args:
            rows: Rows of the table.
            most: Queries to draw at most, unless the goal names a number.
        """
        count = self.held_out_rows(rows) if self.queries else min(most, self.held_out_rows(rows))
        return np.random.default_rng(self.seed).permutation(rows)[:count]


def validation_queries(queries: int) -> int:
    """Return how many of the queries choose the plan; the others test it."""
    return min(_MAX_VALIDATION_QUERIES, max(1, queries // 4))


def confirmable_recall(queries: int) -> float:
    """Return the largest recall target that tuning on so many queries can confirm: that of a plan without a miss."""
    tests = queries - validation_queries(queries)
    return tests / (tests + Z_OF_95**2)  # the lower end of `recall_interval` where no query has a miss


def check_rows(rows: int, goal: Goal, queries: int | None, *, has_stages: bool = False) -> None:
    """Refuse a table with too few rows, or too few queries, for the goal.

    Args:
        rows: Rows of the table.
        goal: What to tune for.
        queries: Number of queries that are given; None: rows of the table are held out.
        has_stages: Whether the stages are the user's, which are held to a recall only if the goal names one.

    Raises:
        TableError: The table is too small, or even a plan without a miss would not confirm the recall.
    """
    holds_out = queries is None
    if holds_out and goal.queries is not None and goal.queries > rows // 5:
        raise TableError(
            f"{goal.queries:,} rows cannot be held out as queries: a fifth of the table's {rows:,} at most; hold "
            f"out {rows // 5:,} or fewer, or give queries of your own"
        )
    least = 5 * (goal.k + 1)
    if rows < least:
        raise TableError(
            f"a funnel is tuned on held-out rows and needs at least {least}; the table has {rows}; search it "
            "without a funnel, which is exact"
        )
    asked = goal.held_out_rows(rows) if queries is None else queries
    is_held_to = goal.recall is not None or not has_stages
    if is_held_to and confirmable_recall(asked) < goal.target:
        raise TableError(_too_few_queries(rows, goal, asked, holds_out=holds_out))


def _too_few_queries(rows: int, goal: Goal, asked: int, *, holds_out: bool) -> str:
    """Say what so many queries confirm, and the ways out."""
    most = confirmable_recall(asked)
    needed = bisect_left(range(_MOST_QUERIES), goal.target, key=confirmable_recall)
    lower = f"{math.floor(100 * most) / 100:.2f}"
    less = [f"ask for recall {lower} or less (--recall {lower})"] if asked > 1 else []
    if not holds_out:
        said, remedies = f"{asked:,} given", [f"give {needed:,} or more"]
    elif needed <= rows // 5:
        said, remedies = f"{asked:,} rows held out", [f"hold out {needed:,} or more (--held-out {needed})"]
    else:
        said = f"{asked:,}, a fifth of the {rows:,} rows"
        remedies = [
            "search without a funnel, which is exact",
            f"give {needed:,} queries of your own (--queries FILE)",
            f"wait until the table has {5 * needed:,} rows",
        ]
    return (
        f"too few queries ({said}) to confirm recall {goal.target}: without a single miss they confirm {most:.4f}; "
        f"nothing is stored. Either {'; or '.join([*remedies, *less])}"
    )
