"""Which plan in RAM meets a recall target at the least measured cost.

Owns what is tried; owns no search and no judgement. Rows of the table are held out as queries, unless queries are
given. Shapes: Q queries, N rows, B rows of a block, D full width, K candidates.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipelines.funnel.chain import Floats, Index, Positions, make_stages, train_rows
from pipelines.funnel.judge import MOST_CANDIDATES, Goal, Judge, Trial, check_rows
from pipelines.funnel.plan import FunnelStage, Plan, TunedFunnel
from pipelines.funnel.slices import Slices, fill_stores
from pipelines.funnel.truth import exact_neighbours
from pipelines.matryoshka import unit

Halves = npt.NDArray[np.float16]

_CODED_ROWS = 4_096
_PARTITIONED_ROWS = 100_000
_PARTITIONED_LEADERS = 1
_BLOCK = 65_536


def tune_memory(
    x_ND: Halves, ladder: tuple[int, ...], goal: Goal, version: int, query_QD: Floats | None = None
) -> tuple[TunedFunnel, tuple[Index, ...]]:
    """Choose stages, precision, index and candidates for a funnel in RAM.

    Args:
        x_ND: Every row of the table, float16 unit rows.
        ladder: Dims that the space may be cut to.
        goal: What to tune for.
        version: Version of the table, for the card.
        query_QD: float32 unit rows to tune on; default are rows of the table, taken out of it.

    Returns:
        Plan and card, and the plan's trained empty stages, without the last.

    Raises:
        TableError: The table has too few rows to hold any out.
    """
    check_rows(len(x_ND), goal)
    held_out = np.random.default_rng(goal.seed).permutation(len(x_ND))[: goal.queries_of(len(x_ND))]
    rest_ND = x_ND if query_QD is not None else np.delete(x_ND, held_out, axis=0)
    queries_QD = query_QD if query_QD is not None else unit(x_ND[held_out].astype(np.float32))
    started = time.perf_counter()
    truth = exact_neighbours(_blocks(rest_ND), queries_QD, goal.k)
    exact_batched_us = (time.perf_counter() - started) / len(queries_QD) * 1e6
    judge = Judge(truth, queries_QD, goal)
    stores = fill_stores(_vectors(rest_ND), len(rest_ND), x_ND.shape[1])
    for plan in _flat_plans(ladder, len(rest_ND), goal):
        if not judge.is_hopeless(plan):
            for trial in _trials([plan], rest_ND, stores):
                judge.hear(trial)
    if len(rest_ND) >= _PARTITIONED_ROWS:
        for leader in judge.leaders[:_PARTITIONED_LEADERS]:
            if leader.stages[0].precision == "pq4":
                for trial in _trials(_partitioned(leader, len(rest_ND)), rest_ND, stores):
                    judge.hear(trial)
    best = judge.verdict(len(x_ND), version, (_exact_us(rest_ND, queries_QD), exact_batched_us))
    assert best is not None, "the exact plan is always heard and always reaches the target"
    trial, card = best
    return TunedFunnel(plan=trial.plan, card=card), trial.empty


def _flat_plans(ladder: tuple[int, ...], rows: int, goal: Goal) -> Iterator[Plan]:
    """Yield what to try: codes of few bytes first, the exact search last."""
    width = ladder[-1]
    last = FunnelStage(dims=width, precision="float16", keep=goal.k)
    most = min(MOST_CANDIDATES, rows)
    firsts = []
    if rows >= _CODED_ROWS:
        firsts = [
            FunnelStage(dims=dims, precision="pq4", codes=dims // share, keep=most)
            for dims in ladder
            for share in (2, 4, 8)
            if dims % share == 0 and 16 <= dims // share <= max(64, width // 4)
        ]
    else:
        firsts = [FunnelStage(dims=dims, precision="float16", keep=most) for dims in ladder[:-1] if dims >= 8]
    firsts.sort(key=lambda stage: (stage.bytes_per_vector, -stage.dims))
    for first in [*firsts, FunnelStage(dims=width, precision="float16", keep=most)]:
        yield Plan(stages=(first, last), k=goal.k, recall=goal.recall)


def _partitioned(plan: Plan, rows: int) -> list[Plan]:
    """Return the plan with its first stage in partitions, probed ever more widely."""
    lists = 1 << round(np.log2(2 * rows**0.5))
    wide = plan.keeping(MOST_CANDIDATES)
    return [wide.model_copy(update={"lists": lists, "probes": lists // share}) for share in (32, 16, 8, 4, 2)]


def _trials(plans: Sequence[Plan], x_ND: Halves, stores: list[Index]) -> Iterator[Trial]:
    """Yield trials of plans that differ in nothing but what a query looks at, over one filled index."""
    sample = np.random.default_rng(0).permutation(len(x_ND))[: train_rows(plans[0])]
    empty = make_stages(plans[0], x_ND[sample].astype(np.float32))
    slices = Slices.build(empty, _vectors(x_ND), len(x_ND), stores)
    for plan in plans:
        is_exact = plan.stages[0].dims == plan.stages[-1].dims and plan.stages[0].precision == "float16"
        yield Trial(
            plan,
            lambda queries_QD, _, plan=plan: slices.candidates(plan, queries_QD),  # type: ignore[misc]
            lambda narrowed, queries_QD: slices.search(narrowed, queries_QD, narrowed.k),
            tuple(empty),
            is_exact,
        )


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
