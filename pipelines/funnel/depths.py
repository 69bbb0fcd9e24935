"""Measure what a plan needs for more results than it was tuned for.

Owns which k are measured, and with how many candidates. A plan that finds the 10 best with 60 candidates does not find
the 100 best with them. So the recall card names candidates for each k up to the largest that was confirmed.

Shapes: Q queries, D full width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.funnel.faiss_stages import Positions
from pipelines.funnel.ground_truth import Blocks, exact_neighbours, recall_interval
from pipelines.funnel.selection import Trial
from pipelines.vectors.arrays import Floats
from schemas.cards import DepthRow, RecallCard, TunedFunnel
from schemas.plans import Plan

_DEPTHS = (10, 100, 1_000)
# At least so many test queries are searched; as many more as the target needs.
_QUERIES, _NEEDED = 250, 8
# Of these, so many show what is usual (`widening`).
_USUAL_QUERIES = 50
# For k results, this many times k candidates are tried.
_FACTORS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)


def measure_further(
    card: RecallCard,
    trial: Trial,
    test: tuple[slice, Floats],
    target: float,
    blocks: Callable[[], Blocks],
    own_ids_Q: Positions | None = None,
) -> TunedFunnel:
    """Return the plan, and the card with what the plan needs for larger k.

    The first k at which half of the table would be candidates ends the list: a search for as many compares every row.

    Args:
        card: The card of the plan.
        trial: The plan that was chosen, with its search.
        test: Which of the queries are the test split, and these queries (Q, D).
        target: Recall that the lower end of the interval must reach at each k.
        blocks: Reads the table, as in `exact_neighbours`.
        own_ids_Q: Id of each query's own row, of all queries.
    """
    count = max(_QUERIES, math.ceil(_NEEDED / (1 - target)))
    which, query_QD = slice(test[0].start, test[0].start + count), test[1][:count]
    ks = [k for k in _DEPTHS if card.k < k <= card.rows_in_table // 10]
    if not ks:
        return TunedFunnel(plan=trial.plan, card=card)
    own_ids = None if own_ids_Q is None else own_ids_Q[which]
    depths: list[DepthRow] = []
    for k, truth in exact_neighbours(blocks, query_QD, ks, own_ids).items():
        for deeper in _deeper_plans(trial.plan, k, card.rows_in_table):
            estimated_Q = truth.recall(truth.ranks(trial.candidates(deeper, query_QD, which)), deeper.candidates)
            if recall_interval(estimated_Q)[1] < target:
                continue
            some = slice(which.start, which.start + _USUAL_QUERIES)
            usual = trial.usual(deeper, query_QD[:_USUAL_QUERIES], some)
            rows_QK, _ = trial.search(deeper.model_copy(update=usual), query_QD, which)
            recall, low, high = recall_interval(truth.recall(truth.ranks(rows_QK), k))
            if low >= target:
                keeps = tuple(stage.keep for stage in deeper.stages[:-1])
                numbers: dict[str, Any] = {"recall": recall, "low": low, "high": high, "queries": len(query_QD)}
                depths.append(DepthRow(k=k, keeps=keeps, probes=deeper.probes, **numbers, **usual))
                break
        else:
            break
    return TunedFunnel(plan=trial.plan, card=card.model_copy(update={"depths": tuple(depths)}))


def _deeper_plans(plan: Plan, k: int, rows: int) -> Iterator[Plan]:
    """Yield plans for k results, each of more candidates than the last, up to half of the table."""
    plan = plan.model_copy(update={"margin": None, "reach": None, "doubt": None})
    scales = dict.fromkeys(max(1.0, k * factor / plan.candidates) for factor in _FACTORS)
    for scale in scales:
        deeper = plan.wider(scale, rows).model_copy(update={"k": k})
        if k <= deeper.candidates <= rows // 2:
            yield deeper
