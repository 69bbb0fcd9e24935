"""The process group of torch, as losses and loop need it. Without a group, this process is the only worker."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, distributed


def worker_rank() -> int:
    """Return the number of this worker, from 0."""
    return distributed.get_rank() if _is_up() else 0


def world_size() -> int:
    """Return the number of workers."""
    return distributed.get_world_size() if _is_up() else 1


def gather_rows(*tensors: Tensor) -> list[Tensor]:
    """Return each (B, …) tensor with the rows of all workers, in order of rank: (world · B, …).

    Gradients flow back to the worker that a row came from, summed over workers.
    """
    if world_size() == 1:
        return list(tensors)
    return [cast(Tensor, _GatherRows.apply(x)) for x in tensors]  # type: ignore[no-untyped-call]


def sum_over_workers(value: Tensor | float, device: torch.device) -> Tensor:
    """Return the sum of a number or a tensor over all workers, float32, without a gradient."""
    total = torch.as_tensor(value, dtype=torch.float32, device=device).clone()
    if world_size() > 1:
        distributed.all_reduce(total)
    return total


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gathered = [torch.empty_like(x) for _ in range(world_size())]
        distributed.all_gather(gathered, x.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(world_size())[worker_rank()]


def _is_up() -> bool:
    return distributed.is_available() and distributed.is_initialized()
