"""Adaptive and funnel retrieval as in the paper: accuracy, multiply-adds and wall-clock of several searches.

Owns the settings that are compared and the comparison. The stages themselves are those of `pipelines.funnel`, on one
thread, so that times are those of one search after another; a single shot is the same code without a rerank.

Shapes: N database rows, Q queries, D full width, K results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.metrics import GroundTruth, Rows, Scores
from pipelines.evaluation.systems import Floats, Sides
from pipelines.funnel.faiss_stages import (
    chain_stages,
    full_vector_store,
    one_thread,
    search_stages,
    train_stages,
    training_rows,
)
from pipelines.funnel.plan import funnel_retrieval
from pipelines.shortlist.bootstrap import Interval, intervals
from pipelines.vectors.matryoshka import cut

SINGLE_SHOT = "single shot"
_TIMED_ROUNDS = 3
_MAX_LOSS = 0.005


@dataclass(frozen=True)
class SearchSetting:
    """Stages of one search.

    Attributes:
        kind: `single shot`, `adaptive` (a shortlist with one rerank), or `funnel`.
        dims: Dims of each stage, ascending.
        keeps: Candidates that each stage keeps; those of the last are the results.
    """

    kind: str
    dims: tuple[int, ...]
    keeps: tuple[int, ...]

    def __str__(self) -> str:
        """Format as `16 (200) → 256 (10)`."""
        stages = zip(self.dims, self.keeps, strict=True)
        return " → ".join(f"{dim} ({keep})" for dim, keep in stages)


@dataclass(frozen=True, eq=False)
class SearchRun:
    """Scores and cost of one setting.

    Attributes:
        setting: The setting.
        scores: Metric to the score of each query, (Q,).
        mflops: Millions of multiply-adds a query.
        milliseconds: Wall-clock a query, on one thread; the least of three rounds.
    """

    setting: SearchSetting
    scores: dict[str, Scores]
    mflops: float
    milliseconds: float


@dataclass(frozen=True)
class SearchResult:
    """One setting compared with a single shot at full width.

    Attributes:
        setting: The setting.
        values: Metric to its mean.
        above_full: Metric to its mean minus that of a single shot at full width, on the same queries.
        mflops: Millions of multiply-adds a query.
        milliseconds: Wall-clock a query, on one thread.
    """

    setting: SearchSetting
    values: Mapping[str, Interval]
    above_full: Mapping[str, Interval]
    mflops: float
    milliseconds: float


def settings_for(dims: Sequence[int], keep: int, keeps: Sequence[int], k: int) -> list[SearchSetting]:
    """Return the settings to compare: a single shot at every dim, every pair of dims, a funnel from every dim.

    Args:
        dims: Ascending; the last is the full width.
        keep: Candidates of a shortlist with one rerank.
        keeps: Candidates that the stages of a funnel keep, as far as there are dims.
        k: Results.
    """
    width = dims[-1]
    singles = [SearchSetting(SINGLE_SHOT, (dim,), (k,)) for dim in dims]
    pairs = [
        SearchSetting("adaptive", (coarse, fine), (keep, k))
        for at, coarse in enumerate(dims)
        for fine in dims[at + 1 :]
    ]
    funnels = []
    for at in range(len(dims)):
        stages = [*dims[at : at + len(keeps)]]
        stages = stages if stages[-1] == width else [*stages, width]
        if len(stages) > 2:
            kept = [max(k, one) for one in keeps[: len(stages) - 1]]
            funnels.append(SearchSetting("funnel", tuple(stages), (*kept, k)))
    return singles + pairs + funnels


def mflops(rows: int, dims: Sequence[int], keeps: Sequence[int]) -> float:
    """Return the millions of multiply-adds of one query: one for each dim of every vector compared.

    Args:
        rows: Vectors in the database; the first stage compares all of them.
        dims: Dims of each stage.
        keeps: Candidates that each stage keeps; those of the last stage cost nothing.

    Example:
        >>> round(mflops(1_281_167, [16, 2048], [200, 10]), 2)
        20.91

    Source: Kusupati et al. 2022 (arXiv 2205.13147), section 4.3.1 and appendix E. The first stage over 1.28 million
    vectors at 16 dims is 20.5 MFLOPs.
    """
    compared = [rows, *(min(rows, keep) for keep in keeps[:-1])]
    return sum(count * dim for count, dim in zip(compared, dims, strict=True)) / 1e6


def retrieve(sides: Sides, truth: GroundTruth, setting: SearchSetting) -> SearchRun:
    """Search by a setting, score the results, and time the search.

    Args:
        sides: Database (N, D) and queries (Q, D); D may be more than the setting's last dim.
        truth: The ground truth.
        setting: The stages.
    """
    width = setting.dims[-1]
    database_ND, queries_QD = (cut(np.asarray(x, np.float32), width) for x in sides)
    rows, k = len(database_ND), min(setting.keeps[-1], len(database_ND))
    with one_thread():
        store = full_vector_store(width)
        if len(setting.dims) == 1:
            store.train(database_ND[:1])
            store.add(database_ND)
            times = [_timed(lambda: store.search(queries_QD, k)) for _ in range(_TIMED_ROUNDS)]
        else:
            plan = funnel_retrieval(setting.dims, [min(keep, rows) for keep in setting.keeps])
            index = chain_stages([*train_stages(plan, database_ND[: training_rows(plan)]), store])[-1]
            index.train(database_ND[:1])
            index.add(database_ND)
            keeps = [*(stage.keep for stage in plan.stages[:-1]), k]
            times = [_timed(lambda: search_stages(index, plan, queries_QD, keeps)) for _ in range(_TIMED_ROUNDS)]
    found_QK: Rows = times[0][1]
    seconds = min(seconds for seconds, _ in times)
    cost = mflops(rows, setting.dims, setting.keeps)
    return SearchRun(setting, truth.score(found_QK), cost, 1e3 * seconds / len(queries_QD))


def compare_searches(
    sides: Sides,
    truth: GroundTruth,
    settings: Sequence[SearchSetting],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> list[SearchResult]:
    """Search by every setting and compare each with the single shot at the largest dim.

    Args:
        sides: Database (N, D) and queries (Q, D).
        truth: The ground truth.
        settings: The settings, with a single shot at the largest dim among them.
        resamples: Bootstrap resamples of the queries.
        confidence: Confidence of the intervals.
    """
    runs = [retrieve(sides, truth, setting) for setting in settings]
    full = max((run for run in runs if run.setting.kind == SINGLE_SHOT), key=lambda run: run.mflops)
    return [_compare(run, full, resamples, confidence) for run in runs]


def cheapest_as_good(searches: Sequence[SearchResult]) -> SearchResult:
    """Return the search of fewest multiply-adds that is as good as a single shot at full width.

    As good: at most .005 below it, and its interval reaches it.
    """
    metric = ranking_metric(searches)
    good = [s for s in searches if s.above_full[metric].high >= 0 and s.above_full[metric].mean >= -_MAX_LOSS]
    return min(good, key=lambda search: search.mflops)


def full_search(searches: Sequence[SearchResult]) -> SearchResult:
    """Return the single shot at full width."""
    return max((s for s in searches if s.setting.kind == SINGLE_SHOT), key=lambda search: search.mflops)


def ranking_metric(searches: Sequence[SearchResult]) -> str:
    """Return the metric that searches are compared by: mAP or nDCG."""
    return next(metric for metric in searches[0].values if metric.startswith(("mAP", "nDCG")))


def _compare(run: SearchRun, full: SearchRun, resamples: int, confidence: float) -> SearchResult:
    own_MQ = np.stack([*run.scores.values()])
    scores_MQ = np.concatenate([own_MQ, own_MQ - np.stack([*full.scores.values()])])
    drawn = intervals(scores_MQ, resamples, confidence)
    return SearchResult(
        setting=run.setting,
        values=dict(zip(run.scores, drawn[: len(own_MQ)], strict=True)),
        above_full=dict(zip(run.scores, drawn[len(own_MQ) :], strict=True)),
        mflops=run.mflops,
        milliseconds=run.milliseconds,
    )


def _timed(search: Callable[[], tuple[Floats, Rows]]) -> tuple[float, Rows]:
    began = time.perf_counter()
    _, found_QK = search()
    return time.perf_counter() - began, found_QK
