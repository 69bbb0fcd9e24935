"""Which plan meets a recall target at the least measured cost.

Owns the choice; owns no search. Rows of the table are held out as queries (or queries are given): one half of them chooses,
the other half fills the recall card. Because the last stage is exact, what a first stage finds is known for every number of
candidates from one long list of them. Shapes: Q queries, N rows, D full width, K candidates.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import faiss
import numpy as np
import numpy.typing as npt
from lance import LanceDataset

from pipelines.funnel.chain import TRAIN_ROWS, Floats, Positions, duplicate, join, make_stages, search_chain
from pipelines.funnel.lake import LakeIndex, candidates
from pipelines.funnel.plan import CardRow, FunnelStage, Plan, RecallCard, TunedFunnel, recall_interval
from pipelines.funnel.truth import Truth, exact_neighbours
from pipelines.matryoshka import unit
from pipelines.tables import to_numpy
from schemas.columns import VECTOR, prefix_column
from schemas.errors import TableError

Objective = Literal["latency", "throughput"]
Halves = npt.NDArray[np.float16]

KEEPS = (10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, 3200)
_CODED_ROWS = 4_096
_PARTITIONED_ROWS = 500_000
_BLOCK = 65_536
_TIMED_QUERIES = 64
_LAKE_QUERIES = 400


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
    empty: tuple[faiss.Index, ...] = ()


def tune_memory(
    x_ND: Halves, ladder: tuple[int, ...], goal: Goal, version: int, query_QD: Floats | None = None
) -> tuple[TunedFunnel, faiss.Index]:
    """Choose stages, precision, index and candidates for a funnel in RAM.

    Args:
        x_ND: Every row of the table, float16 unit rows.
        ladder: Dims that the space may be cut to.
        goal: What to tune for.
        version: Version of the table, for the card.
        query_QD: float32 unit rows to tune on; default are rows of the table, taken out of it.

    Returns:
        Plan and card, and the plan's trained chain, empty.

    Raises:
        TableError: The table has too few rows to hold any out.
    """
    _check_rows(len(x_ND), goal)
    held_out = np.random.default_rng(goal.seed).permutation(len(x_ND))[: min(goal.queries, len(x_ND) // 5)]
    rest_ND = x_ND if query_QD is not None else np.delete(x_ND, held_out, axis=0)
    queries_QD = query_QD if query_QD is not None else unit(x_ND[held_out].astype(np.float32))
    started = time.perf_counter()
    truth = exact_neighbours(_blocks(rest_ND), queries_QD, goal.k)
    exact_batched_us = (time.perf_counter() - started) / len(queries_QD) * 1e6
    bench = _Bench(truth, queries_QD, goal)
    store = faiss.index_factory(x_ND.shape[1], "SQfp16", faiss.METRIC_INNER_PRODUCT)
    for _, block_BD in _blocks(rest_ND):
        store.add(block_BD.astype(np.float32))
    for plan in _memory_plans(ladder, len(rest_ND), goal):
        if not bench.is_hopeless(plan):
            bench.judge(_try(plan, rest_ND, store, queries_QD, truth))
    if len(rest_ND) >= _PARTITIONED_ROWS:
        for plan in _partitioned(bench.best.plan, len(rest_ND)):
            bench.judge(_try(plan, rest_ND, store, queries_QD, truth))
    card = bench.card(len(x_ND), version, _exact_us(rest_ND, queries_QD), exact_batched_us)
    last = faiss.index_factory(x_ND.shape[1], "SQfp16", faiss.METRIC_INNER_PRODUCT)
    return TunedFunnel(plan=bench.best.plan, card=card), join([*bench.best.empty, last])


def tune_lake(dataset: LanceDataset, goal: Goal, query_QD: Floats | None = None) -> TunedFunnel:
    """Choose prefix column, probes and candidates for a funnel on the table's own columns and indexes.

    Args:
        dataset: The table.
        goal: What to tune for.
        query_QD: float32 unit rows to tune on; default are rows of the table, which do not find themselves.

    Raises:
        TableError: The table has no prefix column, or too few rows to hold any out.
    """
    dims = sorted(int(name) for f in dataset.schema if (name := f.name.removeprefix(f"{VECTOR}_")).isdigit())
    if not dims:
        raise TableError(f"{dataset.uri} has no prefix column to search; run: python -m jobs shortlist {dataset.uri} --dims 64")
    ids_N = dataset.scanner(columns=["_rowid"]).to_table()["_rowid"].to_numpy().astype(np.int64)
    _check_rows(len(ids_N), goal)
    own_Q = None
    if query_QD is None:
        own_Q = np.random.default_rng(goal.seed).choice(ids_N, min(goal.queries, _LAKE_QUERIES, len(ids_N) // 5), replace=False)
        found = dataset.scanner(columns=["_rowid", VECTOR], filter=f"_rowid IN ({', '.join(map(str, own_Q))})").to_table()
        own_Q = found["_rowid"].to_numpy().astype(np.int64)
        query_QD = unit(to_numpy(found[VECTOR]).astype(np.float32))
    batches = dataset.scanner(columns=["_rowid", VECTOR]).to_batches()
    blocks = ((batch["_rowid"].to_numpy().astype(np.int64), to_numpy(batch[VECTOR])) for batch in batches)
    started = time.perf_counter()
    truth = exact_neighbours(blocks, query_QD, goal.k, own_Q)
    exact_batched_us = (time.perf_counter() - started) / len(query_QD) * 1e6
    bench = _Bench(truth, query_QD, goal)
    width = dataset.schema.field(VECTOR).type.list_size
    last = FunnelStage(dims=width, precision="float16", keep=goal.k)
    for dim in dims:
        first = FunnelStage(dims=dim, precision="float16", keep=min(KEEPS[-1], len(ids_N)))
        for probes in _lake_probes(dataset, prefix_column(dim)):
            plan = Plan(stages=(first, last), home="lake", probes=probes, k=goal.k, recall=goal.recall)
            bench.judge(_try_lake(dataset, plan, query_QD, truth, own_Q))
    if bench.best_row is None:
        raise TableError(
            f"no prefix column of {dataset.uri} reaches recall {goal.recall} within {KEEPS[-1]} candidates "
            f"(best: {max(row.low for row in bench.rows):.4f}); run: python -m jobs shortlist {dataset.uri} --dims "
            "with more dims, or lower --recall"
        )
    card = bench.card(len(ids_N), dataset.version, exact_batched_us, exact_batched_us)
    return TunedFunnel(plan=bench.best.plan, card=card)


class _Bench:
    """Judges trials and remembers the best."""

    def __init__(self, truth: Truth, queries_QD: Floats, goal: Goal) -> None:
        self.truth, self.queries_QD, self.goal = truth, queries_QD, goal
        self.rows: list[CardRow] = []
        self.best: Trial
        self.best_row: CardRow | None = None

    def is_hopeless(self, plan: Plan) -> bool:
        """Whether a plan reads twice the codes of one that is good enough with few candidates."""
        best = self.best_row
        return best is not None and best.keep <= 50 * self.goal.k and plan.bytes_per_vector - best.bytes_per_vector >= 32

    def judge(self, trial: Trial) -> None:
        """Find the fewest candidates that meet the target, time them, and keep the trial if it is the cheapest."""
        is_exact = trial.plan.stages[0].dims == trial.plan.stages[-1].dims and trial.plan.stages[0].precision == "float16"
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
        others = [self._row(self.best, self.best.plan.keeping(keep), timed=False) for keep in KEEPS if keep >= self.goal.k]
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
            if keep >= self.goal.k and all(recall_interval(recall_Q[half::2])[1] >= self.goal.recall for half in (0, 1)):
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


def _memory_plans(ladder: tuple[int, ...], rows: int, goal: Goal) -> Iterator[Plan]:
    """Yield what to try: codes of few bytes first, the exact search last."""
    width = ladder[-1]
    last = FunnelStage(dims=width, precision="float16", keep=goal.k)
    most = min(KEEPS[-1], rows)
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


def _partitioned(plan: Plan, rows: int) -> Iterator[Plan]:
    """Yield the plan with its first stage in partitions, probed ever more widely."""
    lists = 1 << round(np.log2(2 * rows**0.5))
    wide = plan.keeping(KEEPS[-1])
    for share in (32, 16, 8, 4):
        yield wide.model_copy(update={"lists": lists, "probes": lists // share})


def _try(plan: Plan, x_ND: Halves, store: faiss.Index, queries_QD: Floats, truth: Truth) -> Trial:
    sample = np.random.default_rng(0).permutation(len(x_ND))[:TRAIN_ROWS]
    stages = make_stages(plan, x_ND[sample].astype(np.float32))[:-1]
    empty = tuple(duplicate(stage) for stage in stages)
    for _, block_BD in _blocks(x_ND):
        for stage in stages:
            stage.add(block_BD.astype(np.float32))
    chain = join([*stages, store])
    params = faiss.SearchParametersPreTransform(index_params=faiss.SearchParametersIVF(nprobe=plan.probes)) if plan.lists else None
    _, candidates_QK = stages[0].search(queries_QD, plan.stages[0].keep, params=params)

    def search(narrowed: Plan, some_QD: Floats) -> object:
        return search_chain(chain, narrowed, some_QD, narrowed.k)

    return Trial(plan, truth.ranks(candidates_QK), search, empty)


def _try_lake(dataset: LanceDataset, plan: Plan, query_QD: Floats, truth: Truth, own_Q: Positions | None) -> Trial:
    keep = plan.stages[0].keep
    candidates_QK = np.full((len(query_QD), keep), -1, np.int64)
    for row, query_D in enumerate(query_QD):
        found = candidates(dataset, plan, query_D, None)
        others = found if own_Q is None else found[found != own_Q[row]]
        candidates_QK[row, : len(others)] = others

    def search(narrowed: Plan, some_QD: Floats) -> object:
        return LakeIndex(dataset, narrowed).nearest(some_QD, narrowed.k)

    return Trial(plan, truth.ranks(candidates_QK), search)


def _lake_probes(dataset: LanceDataset, column: str) -> list[int]:
    """Return the numbers of partitions to try: all of them without an index."""
    for index in dataset.describe_indices():
        if column in index.field_names:
            partitions = dataset.stats.index_stats(index.name)["indices"][0]["num_partitions"]
            return sorted({min(partitions, probes) for probes in (8, 16, 32, 64, 128)})
    return [0]


def _check_rows(rows: int, goal: Goal) -> None:
    least = 5 * (goal.k + 1)
    if rows < least:
        raise TableError(f"a funnel is tuned on held-out rows and needs at least {least}; the table has {rows}")


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


__all__ = ["KEEPS", "Goal", "Objective", "tune_lake", "tune_memory"]
