"""Which plan on the table's own columns and indexes meets a recall target at the least measured cost.

Owns what is tried; owns no search, no index and no judgement. Nothing is held in RAM but the queries, which are rows
of the table that may not find themselves, unless queries are given. Shapes: Q queries, D full width, K candidates.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from lance import LanceDataset

from pipelines.funnel.faiss_stages import Floats, Positions
from pipelines.funnel.ground_truth import exact_neighbours
from pipelines.funnel.lake import LakeIndex, candidates, read_rows, row_ids
from pipelines.funnel.selection import MOST_CANDIDATES, Goal, Measured, PlanSelector, Trial, check_rows
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import unit
from schemas.columns import VECTOR, prefix_column
from schemas.errors import TableError
from schemas.plans import FunnelStage, Plan, TunedFunnel

_MOST_QUERIES = 2_000


def tune_in_lake(
    dataset: LanceDataset, goal: Goal, query_QD: Floats | None = None, plan: Plan | None = None
) -> TunedFunnel:
    """Choose prefix column, probes and candidates for a funnel on the table's own columns and indexes.

    Args:
        dataset: The table.
        goal: What to tune for.
        query_QD: float32 unit rows to tune on; default are rows of the table, which do not find themselves.
        plan: Stages to measure instead of choosing some.

    Raises:
        TableError: The table has too few rows, or no prefix column, or none that reaches the target.
    """
    dims = sorted(int(name) for f in dataset.schema if (name := f.name.removeprefix(f"{VECTOR}_")).isdigit())
    if not dims and plan is None:
        raise TableError(
            f"{dataset.uri} has no prefix column to search; "
            "run: python -m jobs shortlist CONFIG --set dims=[64], with this table in CONFIG"
        )
    rows = dataset.count_rows()
    check_rows(rows, goal)
    own_Q = None
    if query_QD is None:
        own_Q, query_QD = _draw(dataset, goal)
    batches = dataset.scanner(columns=["_rowid", VECTOR]).to_batches()
    started = time.perf_counter()
    truth = exact_neighbours(((row_ids(b), np.array(to_numpy(b[VECTOR]))) for b in batches), query_QD, goal.k, own_Q)
    exact_us = (time.perf_counter() - started) / len(query_QD) * 1e6
    judge, measured = PlanSelector(truth, query_QD, goal), Measured(rows, dataset.version, exact_us, exact_us)
    if plan is not None:
        trial, card = judge.card_of(_trial(dataset, plan, own_Q), measured)
        return TunedFunnel(plan=trial.plan, card=card)
    width = dataset.schema.field(VECTOR).type.list_size
    last = FunnelStage(dims=width, precision="float16", keep=goal.k)
    for dim in dims:
        first = FunnelStage(dims=dim, precision="float16", keep=min(MOST_CANDIDATES, rows))
        for probes in _probes(dataset, prefix_column(dim)):
            tried = Plan(stages=(first, last), home="lake", probes=probes, k=goal.k, recall=goal.recall)
            judge.hear(_trial(dataset, tried, own_Q))
    best = judge.verdict(measured)
    if best is None:
        raise TableError(
            f"no prefix column of {dataset.uri} is sure to reach recall {goal.recall} within {MOST_CANDIDATES} "
            f"candidates (the best reached {judge.most():.4f}); run: python -m jobs shortlist CONFIG with more dims, "
            "lower --recall, or hold out more rows"
        )
    trial, card = judge.with_margin(*best, partial(_scored, dataset, own_Q))
    return TunedFunnel(plan=trial.plan, card=card)


def _draw(dataset: LanceDataset, goal: Goal) -> tuple[Positions, Floats]:
    """Return row ids and vectors of rows to ask with."""
    ids_N = row_ids(dataset.scanner(columns=["_rowid"]).to_table())
    count = min(goal.queries_of(len(ids_N)), _MOST_QUERIES)
    drawn = np.random.default_rng(goal.seed).choice(ids_N, count, replace=False)
    found = read_rows(dataset, drawn, [VECTOR])
    return row_ids(found), unit(to_numpy(found[VECTOR]).astype(np.float32))


def _trial(dataset: LanceDataset, plan: Plan, own_Q: Positions | None) -> Trial:
    return Trial(
        plan,
        lambda queries_QD, which: _scored(dataset, own_Q, plan, queries_QD, which)[1],
        lambda narrowed, queries_QD: LakeIndex(dataset, narrowed).find(queries_QD, narrowed.k),
    )


def _scored(
    dataset: LanceDataset, own_Q: Positions | None, plan: Plan, queries_QD: Floats, which: slice
) -> tuple[Floats, Positions]:
    """Return cosines and row ids (Q, K) of the first stage, best first, without the queries' own rows."""
    scores_QK = np.full((len(queries_QD), plan.stages[0].keep), -np.inf, np.float32)
    found_QK = np.full(scores_QK.shape, -1, np.int64)
    for row, query_D in enumerate(queries_QD):
        scores, found = candidates(dataset, plan, query_D, None)
        others = np.ones(len(found), bool) if own_Q is None else found != own_Q[which][row]
        found_QK[row, : others.sum()], scores_QK[row, : others.sum()] = found[others], scores[others]
    return scores_QK, found_QK


def _probes(dataset: LanceDataset, column: str) -> list[int]:
    """Return the numbers of partitions to try: all of them without an index."""
    for index in dataset.describe_indices():
        if column in index.field_names:
            partitions = dataset.stats.index_stats(index.name)["indices"][0]["num_partitions"]
            return sorted({min(partitions, probes) for probes in (8, 16, 32, 64, 128)})
    return [0]
