"""Several workers without Ray: two processes in a gloo group, or one process that looks like one of several."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import multiprocessing


def on_two_workers(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Call a function of a module with each rank; return what it returned."""
    multiprocessing.spawn(_run, (work, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run(rank: int, work: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=dt.timedelta(seconds=500)
    )
    torch.save(work(rank), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@contextmanager
def as_worker(rank: int, world: int) -> Iterator[None]:
    """Let this process look like one of several workers to everything that asks torch."""
    answers = {
        "is_initialized": lambda: True,
        "get_rank": lambda: rank,
        "get_world_size": lambda: world,
    }
    with mock.patch.multiple(torch.distributed, **answers):
        yield
