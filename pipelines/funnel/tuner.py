"""Which plan with its codes in RAM meets a recall target at the least measured cost.

Owns what is tried; owns no search and no judgement. Rows of the table are held out as queries, unless queries are
given. Shapes: Q queries, N rows, B rows of a block, D full width, K candidates.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.funnel.faiss_stages import Floats, Halves, Index, Positions, train_stages, training_rows
from pipelines.funnel.ground_truth import exact_neighbours
from pipelines.funnel.rerank import Vectors, rerank
from pipelines.funnel.selection import MOST_CANDIDATES, Goal, Measured, PlanSelector, Trial, check_rows
from pipelines.funnel.slices import FaissSlices, fill_stores
from pipelines.vectors.matryoshka import unit
from schemas.errors import TableError
from schemas.plans import FunnelStage, Home, Plan, TunedFunnel

_CODED_ROWS = 4_096
_PARTITIONED_ROWS = 100_000
_REFINED_LEADERS = 2
# Where each candidate is a read from the table, more than these are not worth trying.
_MOST_READ = 800
_BLOCK = 65_536


def tune_in_memory(
    x_ND: Halves,
    ladder: tuple[int, ...],
    goal: Goal,
    version: int,
    query_QD: Floats | None = None,
    vectors: Vectors | None = None,
    plan: Plan | None = None,
) -> tuple[TunedFunnel, tuple[Index, ...]]:
    """Choose stages, precision, index and candidates for a funnel whose first stage is in RAM.

    Args:
        x_ND: Every row of the table, float16 unit rows.
        ladder: Dims that the space may be cut to.
        goal: What to tune for.
        version: Version of the table, for the card.
        query_QD: float32 unit rows to tune on; default are rows of the table, taken out of it.
        vectors: Reads rows from the table, for a last stage that is there; None has them in RAM.
        plan: Stages to measure instead of choosing some.

    Returns:
        Plan and card, and the plan's trained empty stages, without the last.

    Raises:
        TableError: The table has too few rows to hold any out, or no plan is both small and good enough.
    """
    check_rows(len(x_ND), goal)
    held_out = np.random.default_rng(goal.seed).permutation(len(x_ND))[: goal.queries_of(len(x_ND))]
    queries_QD = query_QD if query_QD is not None else unit(x_ND[held_out].astype(np.float32))
    others = np.delete(np.arange(len(x_ND)), held_out if query_QD is None else [])
    rest_ND = x_ND if query_QD is not None else x_ND[others]
    started = time.perf_counter()
    truth = exact_neighbours(_blocks(rest_ND), queries_QD, goal.k)
    exact_batched_us = (time.perf_counter() - started) / len(queries_QD) * 1e6
    measured = Measured(len(x_ND), version, _exact_us(rest_ND, queries_QD), exact_batched_us)
    judge = PlanSelector(truth, queries_QD, goal)
    read = None if vectors is None else (lambda positions: vectors(others[positions]))
    home: Home = "memory" if vectors is None else "codes"
    stores = None if read else fill_stores(_vectors(rest_ND), len(rest_ND), x_ND.shape[1])
    if plan is not None:
        (trial,) = _trials([plan], rest_ND, stores, read)
        trial, card = judge.card_of(trial, measured)
        return TunedFunnel(plan=trial.plan, card=card), trial.empty
    for tried in _flat_plans(ladder, len(rest_ND), goal, home):
        if goal.allows(tried) and (home == "codes" or not judge.is_hopeless(tried)):
            for trial in _trials([tried], rest_ND, stores, read):
                judge.hear(trial)
    for tries in _refined_plans(judge.leaders[:_REFINED_LEADERS], len(rest_ND)):
        if goal.allows(tries[0]):
            for trial in _trials(tries, rest_ND, stores, read):
                judge.hear(trial)
    best = judge.verdict(measured)
    if best is None:
        raise TableError(
            f"no plan of at most {goal.bytes_per_vector} bytes a vector is sure to reach recall {goal.recall} (the "
            f"best reached {judge.most():.4f}); allow more bytes, keep the full vectors in the lake, or ask for less"
        )
    trial, card = best
    return TunedFunnel(plan=trial.plan, card=card), trial.empty


def _flat_plans(ladder: tuple[int, ...], rows: int, goal: Goal, home: Home) -> Iterator[Plan]:
    """Yield what to try: codes of few bytes first; last what can hardly miss, in RAM the exact search."""
    width, is_read = ladder[-1], home == "codes"
    last = FunnelStage(dims=width, precision="float16", keep=goal.k)
    most = min(_MOST_READ if is_read else MOST_CANDIDATES, rows)
    firsts = []
    if rows >= _CODED_ROWS:
        firsts = [
            FunnelStage(dims=dims, precision="pq4", codes=dims // share, keep=most)
            for dims in ladder
            for share in (1, 2, 4, 8)
            if dims % share == 0 and 16 <= dims // share <= (width if is_read else max(64, width // 2))
        ]
    else:
        firsts = [FunnelStage(dims=dims, precision="float16", keep=most) for dims in ladder[:-1] if dims >= 8]
    firsts.sort(key=lambda stage: (stage.bytes_per_vector, -stage.dims))
    for first in [*firsts, FunnelStage(dims=width, precision="int8" if is_read else "float16", keep=most)]:
        yield Plan(stages=(first, last), home=home, k=goal.k, recall=goal.recall)


def _refined_plans(leaders: Sequence[Plan], rows: int) -> Iterator[list[Plan]]:
    """Yield what to try of the best plans: in partitions; where vectors are read, with a stage that spares reads."""
    for leader in leaders:
        if leader.stages[0].precision != "pq4":
            continue
        if leader.home == "codes":
            first, last = leader.keeping(min(2 * leader.candidates, rows)).stages
            between = FunnelStage(dims=last.dims, precision="int8", keep=first.keep)
            yield [leader.model_copy(update={"stages": (first, between, last)})]
        elif rows >= _PARTITIONED_ROWS:
            lists = 1 << round(np.log2(2 * rows**0.5))
            wide = leader.keeping(MOST_CANDIDATES)
            yield [wide.model_copy(update={"lists": lists, "probes": lists // share}) for share in (32, 16, 8, 4, 2)]


def _trials(plans: Sequence[Plan], x_ND: Halves, stores: list[Index] | None, read: Vectors | None) -> Iterator[Trial]:
    """Yield trials of plans that differ in nothing but what a query looks at, over one filled index."""
    sample = np.random.default_rng(0).permutation(len(x_ND))[: training_rows(plans[0])]
    empty = train_stages(plans[0], x_ND[sample].astype(np.float32))
    slices = FaissSlices.build(empty, _vectors(x_ND), len(x_ND), stores)

    def search(plan: Plan, queries_QD: Floats) -> object:
        if read is None:
            return slices.search(plan, queries_QD, plan.k)
        among = [found[found >= 0] for found in slices.candidates(plan, queries_QD)]
        return rerank(queries_QD, among, read, plan.k)

    for plan in plans:
        yield Trial(plan, lambda queries_QD, _, plan=plan: slices.candidates(plan, queries_QD), search, tuple(empty))  # type: ignore[misc]


def _exact_us(x_ND: Halves, queries_QD: Floats) -> float:
    """Microseconds of one exact float32 search over all rows, from a part of them."""
    part_ND = x_ND[: 2 * _BLOCK].astype(np.float32)
    times = []
    for query_D in queries_QD[:5]:
        started = time.perf_counter()
        np.argpartition(part_ND @ query_D, -1)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * len(x_ND) / len(part_ND) * 1e6


def _blocks(x_ND: Halves) -> Iterator[tuple[Positions, Halves]]:
    for start in range(0, len(x_ND), _BLOCK):
        block = x_ND[start : start + _BLOCK]
        yield np.arange(start, start + len(block)), block


def _vectors(x_ND: Halves) -> Iterator[Halves]:
    return (block_BD for _, block_BD in _blocks(x_ND))
