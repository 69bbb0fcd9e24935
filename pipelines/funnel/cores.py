"""How many searches this machine runs at once as fast as one: what it is worth to cut an index into slices.

Two threads of one core share the units that compare codes, and virtual machines do not tell which cores are such
threads; so it is measured, once a process.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from pipelines.funnel.chain import faiss, one_thread

_DIMS, _BLOCK, _BLOCKS, _ROUNDS = 64, 4_096, 32, 15


@cache
def useful_cores() -> int:
    """Return how many single-threaded searches run at once for the time of one, rounded down; at least 1."""
    cores = len(os.sched_getaffinity(0))
    if cores == 1:
        return 1
    x_BD = np.random.default_rng(0).standard_normal((_BLOCK, _DIMS), np.float32)
    index = faiss.index_factory(_DIMS, f"PQ{_DIMS}x4fs", faiss.METRIC_INNER_PRODUCT)
    with ThreadPoolExecutor(cores) as pool, one_thread():
        index.train(x_BD)
        for _ in range(_BLOCKS):
            index.add(x_BD)

        def search(_: int = 0) -> None:
            with one_thread():
                index.search(x_BD[:1], 10)

        alone = _median_s(search)
        together = _median_s(lambda: list(pool.map(search, range(cores))))
    return max(1, int(cores * alone / together))


def _median_s(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
