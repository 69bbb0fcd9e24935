"""Tune a funnel: try plans on a table and choose the cheapest that reaches the recall target.

Owns the plans to try, in memory (homes `memory` and `codes`) and in the lake. Owns no search, no index, and not the
choice itself (`selection`). Queries are rows of the table, unless queries are given.

Shapes: Q queries, N rows, D full width.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from lance import LanceDataset

from pipelines.funnel.depths import measure_further
from pipelines.funnel.faiss_stages import Index, Positions
from pipelines.funnel.goal import Goal, check_rows
from pipelines.funnel.ground_truth import Blocks, exact_neighbours
from pipelines.funnel.selection import MAX_CANDIDATES, Baseline, PlanSelector, Trial
from pipelines.funnel.trials import MemoryTrials, TableVectors, lake_trial, scored_candidates
from pipelines.tables.rows import ROW_ID, read_vectors, row_ids, scan_vectors
from pipelines.vectors.arrays import Floats, Halves
from pipelines.vectors.matryoshka import unit
from schemas.cards import RecallCard, TunedFunnel
from schemas.columns import VECTOR, prefix_column, prefix_dims
from schemas.errors import TableError
from schemas.plans import FunnelStage, Plan

# FAISS trains codes well from this many rows on; fewer rows are compared by their prefixes.
_CODED_ROWS = 4_096
_PARTITIONED_ROWS = 100_000
_REFINED_LEADERS = 2
# Limit of candidates where each is a read from the table.
_MAX_READ = 800
_MAX_LAKE_QUERIES = 2_000
_TIMED_ROWS = 131_072
# Recall that stages without a target must reach for larger k at most: a few hundred queries confirm it.
_MOST_FOR_MORE = 0.98


def tune_in_memory(
    vectors: TableVectors, goal: Goal, query_QD: Floats | None = None, plan: Plan | None = None
) -> tuple[TunedFunnel, tuple[Index, ...]]:
    """Choose stages, precision, index and candidates for a funnel whose first stage is in RAM.

    Args:
        vectors: The table.
        goal: What to tune for.
        query_QD: float32 unit rows to tune on; default: rows of the table.
        plan: A plan to measure as it is; None: choose one.

    Returns:
        Plan and card, and the plan's trained, empty stages, without the last.

    Raises:
        TableError: The table has too few rows to hold any out, or no plan is both small and good enough.
    """
    rows = len(vectors.x_ND)
    check_rows(rows, goal, None if query_QD is None else len(query_QD), has_stages=plan is not None)
    own_ids_Q, query_QD = vectors.draw_queries(goal) if query_QD is None else (None, query_QD)
    started = time.perf_counter()
    truth = exact_neighbours(vectors.blocks, query_QD, [goal.k], own_ids_Q)[goal.k]
    exact_batched_us = (time.perf_counter() - started) / len(query_QD) * 1e6
    baseline = Baseline(rows, vectors.dataset.version, _exact_us(vectors.x_ND, query_QD), exact_batched_us)
    selector, trials = PlanSelector(truth, query_QD, goal), MemoryTrials(vectors, own_ids_Q)
    if plan is not None:
        trial, card = selector.confirm(next(iter(trials([plan]))), baseline)
        target = _target_of(card, goal)
    else:
        trial, card = _choose_in_memory(vectors, goal, selector, trials, baseline)
        target = goal.target
    return measure_further(card, trial, selector.test, target, vectors.blocks, own_ids_Q), trial.empty


def _choose_in_memory(
    vectors: TableVectors, goal: Goal, selector: PlanSelector, trials: MemoryTrials, baseline: Baseline
) -> tuple[Trial, RecallCard]:
    """Try plans and return the best, with its card.

    Raises:
        TableError: No plan is both small and good enough.
    """
    for tried in _flat_plans(vectors, goal):
        if goal.allows(tried) and (vectors.home == "codes" or not selector.is_hopeless(tried)):
            for trial in trials([tried]):
                selector.evaluate(trial)
    for variants in _refined_plans(selector.leaders[:_REFINED_LEADERS], len(vectors.x_ND)):
        if goal.allows(variants[0]):
            for trial in trials(variants):
                selector.evaluate(trial)
    best = selector.decide(baseline)
    if best is None:
        allowed = f" of at most {goal.bytes_per_vector} bytes a vector" if goal.bytes_per_vector is not None else ""
        raise TableError(
            f"no plan{allowed} is sure to reach recall {goal.target} ({selector.shortfall}); nothing is stored. Allow "
            "more bytes, keep the full vectors in the lake, hold out more rows, or ask for less recall"
        )
    return best


def _flat_plans(vectors: TableVectors, goal: Goal) -> Iterator[Plan]:
    """Yield two-stage plans, those of the fewest bytes first; the last is exact, or nearly so for `codes`."""
    rows, width, is_read = len(vectors.x_ND), vectors.ladder[-1], vectors.home == "codes"
    last = FunnelStage(dims=width, precision="float16", keep=goal.k)
    keep = min(_MAX_READ if is_read else MAX_CANDIDATES, rows)
    if rows >= _CODED_ROWS:
        firsts = [
            FunnelStage(dims=dims, precision="pq4", codes=dims // share, keep=keep)
            for dims in vectors.ladder
            for share in (1, 2, 4, 8)
            if dims % share == 0 and 16 <= dims // share <= (width if is_read else max(64, width // 2))
        ]
    else:
        firsts = [FunnelStage(dims=dims, precision="float16", keep=keep) for dims in vectors.ladder[:-1] if dims >= 8]
    firsts.sort(key=lambda stage: (stage.bytes_per_vector, -stage.dims))
    for first in [*firsts, FunnelStage(dims=width, precision="int8" if is_read else "float16", keep=keep)]:
        yield Plan(stages=(first, last), home=vectors.home, k=goal.k, recall=goal.target)


def _refined_plans(leaders: Sequence[Plan], rows: int) -> Iterator[list[Plan]]:
    """Yield variants of the best plans: in partitions; for `codes`, with a stage in between that saves reads."""
    for leader in leaders:
        if leader.stages[0].precision != "pq4":
            continue
        if leader.home == "codes":
            first, last = leader.keeping(min(2 * leader.candidates, rows)).stages
            between = FunnelStage(dims=last.dims, precision="int8", keep=first.keep)
            yield [leader.model_copy(update={"stages": (first, between, last)})]
        elif rows >= _PARTITIONED_ROWS:
            lists = 1 << round(np.log2(2 * rows**0.5))
            wide = leader.keeping(MAX_CANDIDATES)
            yield [wide.model_copy(update={"lists": lists, "probes": lists // share}) for share in (32, 16, 8, 4, 2)]


def _target_of(card: RecallCard, goal: Goal) -> float:
    """Return the recall that given stages must reach for larger k: what they are held to, or what they reach for k."""
    return min(card.best.low, _MOST_FOR_MORE) if goal.recall is None else goal.recall


def _exact_us(x_ND: Halves, query_QD: Floats) -> float:
    """Estimate the microseconds of one exact float32 search over all rows, from a part of them."""
    part_ND = x_ND[:_TIMED_ROWS].astype(np.float32)
    times = []
    for query_D in query_QD[:5]:
        started = time.perf_counter()
        np.argpartition(part_ND @ query_D, -1)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * len(x_ND) / len(part_ND) * 1e6


def tune_in_lake(
    dataset: LanceDataset, goal: Goal, query_QD: Floats | None = None, plan: Plan | None = None
) -> TunedFunnel:
    """Choose prefix column, probes and candidates for a funnel on the table's own columns and indexes.

    Only the queries are in RAM. A row that serves as a query does not count as its own neighbour.

    The arguments are those of `tune_in_memory`; queries that are not given are rows of the table.

    Raises:
        TableError: The table has too few rows or no prefix column, or no plan reaches the target.
    """
    dims = prefix_dims(dataset.schema.names)
    if not dims and plan is None:
        raise TableError(
            f"{dataset.uri} has no prefix column to search; "
            "run: mlake shortlist CONFIG --set dims=[64], with this table in CONFIG"
        )
    rows = dataset.count_rows()
    check_rows(rows, goal, None if query_QD is None else len(query_QD), has_stages=plan is not None)
    own_ids_Q, query_QD = _draw_queries(dataset, goal) if query_QD is None else (None, query_QD)
    started = time.perf_counter()

    def blocks() -> Blocks:
        return ((row_ids(batch), np.array(block_BD)) for batch, block_BD in scan_vectors(dataset, [ROW_ID]))

    truth = exact_neighbours(blocks, query_QD, [goal.k], own_ids_Q)[goal.k]
    batched_us = (time.perf_counter() - started) / len(query_QD) * 1e6
    started = time.perf_counter()
    exact_neighbours(blocks, query_QD[:1], [goal.k])
    baseline = Baseline(rows, dataset.version, (time.perf_counter() - started) * 1e6, batched_us)
    selector = PlanSelector(truth, query_QD, goal)
    if plan is not None:
        trial, card = selector.confirm(lake_trial(dataset, plan, own_ids_Q), baseline)
        target = _target_of(card, goal)
    else:
        trial, card = _choose_in_lake(dataset, dims, goal, selector, baseline, own_ids_Q)
        target = goal.target
    return measure_further(card, trial, selector.test, target, blocks, own_ids_Q)


def _choose_in_lake(
    dataset: LanceDataset,
    dims: Sequence[int],
    goal: Goal,
    selector: PlanSelector,
    baseline: Baseline,
    own_ids_Q: Positions | None,
) -> tuple[Trial, RecallCard]:
    """Try every prefix column and return the best plan, with its card.

    Raises:
        TableError: No plan reaches the target.
    """
    for tried in _lake_plans(dataset, dims, goal):
        selector.evaluate(lake_trial(dataset, tried, own_ids_Q))
    best = selector.decide(baseline)
    if best is None:
        raise TableError(
            f"no prefix column of {dataset.uri} is sure to reach recall {goal.target} within {MAX_CANDIDATES} "
            f"candidates ({selector.shortfall}); nothing is stored. Run: mlake shortlist CONFIG with more "
            "dims, lower --recall, or hold out more rows"
        )
    return selector.add_margin(*best, partial(scored_candidates, dataset, own_ids_Q))


def _draw_queries(dataset: LanceDataset, goal: Goal) -> tuple[Positions, Floats]:
    """Return ids (Q,) and vectors (Q, D) of random rows to serve as queries."""
    ids_N = row_ids(dataset.scanner(columns=["_rowid"]).to_table())
    drawn_Q = ids_N[goal.draw(len(ids_N), _MAX_LAKE_QUERIES)]
    return drawn_Q, unit(read_vectors(dataset, drawn_Q).astype(np.float32))


def _lake_plans(dataset: LanceDataset, dims: Sequence[int], goal: Goal) -> Iterator[Plan]:
    """Yield a plan for every prefix column and number of probes."""
    last = FunnelStage(dims=dataset.schema.field(VECTOR).type.list_size, precision="float16", keep=goal.k)
    for dim in dims:
        first = FunnelStage(dims=dim, precision="float16", keep=min(MAX_CANDIDATES, dataset.count_rows()))
        for probes in _probes(dataset, prefix_column(dim)):
            yield Plan(stages=(first, last), home="lake", probes=probes, k=goal.k, recall=goal.target)


def _probes(dataset: LanceDataset, column: str) -> list[int]:
    """Return the numbers of partitions to probe; 0 if the column has no index."""
    for index in dataset.describe_indices():
        if column in index.field_names:
            partitions = dataset.stats.index_stats(index.name)["indices"][0]["num_partitions"]
            return sorted({min(partitions, probes) for probes in (8, 16, 32, 64, 128)})
    return [0]
