"""Adaptive and funnel retrieval as in the paper: how right, at what arithmetic, in what time.

Owns the settings that are compared; the stages themselves are `pipelines.funnel`'s, on one thread, so that times are
those of one search after another, and a single shot is the same code without a rerank.

Shapes: N database rows, Q queries, D full width, K results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.costs import mflops
from pipelines.evaluation.metrics import Rows, Scores, Truth
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
from pipelines.vectors.matryoshka import cut

_TIMED_ROUNDS = 3


@dataclass(frozen=True)
class Setting:
    """One way to search.

    Attributes:
        kind: A single shot, a shortlist with one rerank, or a funnel.
        dims: Of each stage, ascending.
        keeps: What each stage hands on; the last are the results.
    """

    kind: str
    dims: tuple[int, ...]
    keeps: tuple[int, ...]

    def __str__(self) -> str:
        """As `16 → 256` with what is handed on between them."""
        stages = zip(self.dims, self.keeps, strict=True)
        return " → ".join(f"{dim} ({keep})" for dim, keep in stages)


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What a setting found and cost.

    Attributes:
        setting: The setting.
        scores: Metric to the score of each query, (Q,).
        mflops: Millions of multiply-adds a query.
        milliseconds: Wall-clock a query, on one thread; the least of three rounds.
    """

    setting: Setting
    scores: dict[str, Scores]
    mflops: float
    milliseconds: float


def settings_for(dims: Sequence[int], keep: int, keeps: Sequence[int], k: int) -> list[Setting]:
    """Return what is compared: a single shot at every dim, every pair of dims, a funnel from every dim.

    Args:
        dims: Ascending; the last is the full width.
        keep: Candidates of a shortlist with one rerank.
        keeps: Candidates that the stages of a funnel hand on, as far as there are dims.
        k: Results.
    """
    width = dims[-1]
    singles = [Setting("single shot", (dim,), (k,)) for dim in dims]
    pairs = [
        Setting("adaptive", (coarse, fine), (keep, k)) for at, coarse in enumerate(dims) for fine in dims[at + 1 :]
    ]
    funnels = []
    for at in range(len(dims)):
        stages = [*dims[at : at + len(keeps)]]
        stages = stages if stages[-1] == width else [*stages, width]
        if len(stages) > 2:
            handed = [max(k, one) for one in keeps[: len(stages) - 1]]
            funnels.append(Setting("funnel", tuple(stages), (*handed, k)))
    return singles + pairs + funnels


def retrieve(sides: Sides, truth: Truth, setting: Setting) -> Retrieved:
    """Search by a setting, score what it finds, and time it.

    Args:
        sides: Database (N, D) and queries (Q, D); D may be more than the setting's last dim.
        truth: What is right.
        setting: How to search.
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
    return Retrieved(setting, truth.score(found_QK), cost, 1e3 * seconds / len(queries_QD))


def _timed(search: Callable[[], tuple[Floats, Rows]]) -> tuple[float, Rows]:
    began = time.perf_counter()
    _, found_QK = search()
    return time.perf_counter() - began, found_QK
