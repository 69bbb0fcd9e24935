"""Two processes in a gloo group, without Ray: what each finds, in order of rank."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
