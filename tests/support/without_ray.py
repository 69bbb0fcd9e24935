"""Jobs in one process, for tests that are about something else than Ray, which takes seconds to start an actor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import pytest

from cluster.placement import PoolSize
from schemas.config import ClusterConfig
from schemas.work import Worker
from tests.support.local_pool import LocalPool


class InProcessPool(LocalPool[Any, Any]):
    """Takes the place of an `ActorPool`."""

    def __init__(self, make_worker: Callable[[], Worker[Any, Any]], size: PoolSize, *_: object, **__: object) -> None:
        super().__init__(make_worker(), actors=size.actors)

    def __class_getitem__(cls, _: object) -> type[Self]:
        return cls

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def in_process() -> Iterator[None]:
    """Run the pools of all jobs in this process, and connect to no Ray."""
    with pytest.MonkeyPatch.context() as patch:
        for job in ("embed", "embed_pilots", "rotate", "shortlist"):
            patch.setattr(f"jobs.{job}.ActorPool", InProcessPool)
        for job in ("embed", "rotate", "shortlist"):
            patch.setattr(f"jobs.{job}.plan_pool", plan_one)
        for job in ("demo", "embed", "evaluate", "rotate", "shortlist"):
            patch.setattr(f"jobs.{job}.connect", nullcontext)
        patch.setattr("jobs.embed.has_gpu", lambda: False)
        yield


@pytest.fixture
def without_ray() -> Iterator[None]:
    """Run the pools of a test's jobs in this process."""
    with in_process():
        yield


def plan_one(config: ClusterConfig) -> PoolSize:
    """Plan a pool of one actor with one CPU."""
    return PoolSize(1, cpus=1.0, gpus=0.0, threads=1, in_flight=1)
