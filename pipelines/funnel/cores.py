"""What it is worth to cut codes into slices, each compared by a thread of its own: measured, once a process and size.

Two threads of one core share the units that compare codes, and virtual machines do not tell which cores are such
threads; but where codes do not fit into the cache, threads wait for memory, and waiting can be shared.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from pipelines.funnel.faiss_stages import Index, faiss, one_thread

_CODES, _CODE_BYTES, _MOST_MEGABYTES, _ROUNDS = 64, 32, 256, 9


def useful_slices(code_bytes: int) -> int:
    """Return into how many slices to cut codes of so many bytes: as many as make one query that much faster."""
    megabytes = 1 << max(0, code_bytes - 1 >> 20).bit_length()
    return _measured(min(_MOST_MEGABYTES, megabytes), len(os.sched_getaffinity(0)))


@cache
def _measured(megabytes: int, cores: int) -> int:
    if cores == 1:
        return 1
    with ThreadPoolExecutor(cores) as pool, one_thread():
        whole, *parts = _codes(megabytes << 20), *(_codes((megabytes << 20) // cores) for _ in range(cores))
        alone = _median_s(lambda: _search(whole))
        together = _median_s(lambda: list(pool.map(_search, parts)))
    return min(cores, max(1, round(alone / together)))


def _codes(size: int) -> Index:
    """Make an index of arbitrary codes, that many bytes of them."""
    index = faiss.index_factory(_CODES, f"PQ{_CODES}x4fs", faiss.METRIC_INNER_PRODUCT)
    index.train(np.random.default_rng(0).standard_normal((1_024, _CODES), np.float32))
    rows = size // _CODE_BYTES
    index.codes.resize(rows * _CODE_BYTES)
    faiss.rev_swig_ptr(index.codes.get(), rows * _CODE_BYTES)[:] = 0x5A  # pages not yet written would not be read
    index.ntotal = index.ntotal2 = rows
    return index


def _search(index: Index) -> None:
    with one_thread():
        index.search(np.ones((1, _CODES), np.float32), 100)


def _median_s(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
