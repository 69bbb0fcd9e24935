"""Connecting to Ray: a cluster where `RAY_ADDRESS` names one, else a local one that ends with the process."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from schemas.config import ClusterConfig

_STORE_BYTES = 256 << 20
# A local cluster starts workers when they are needed, and leaves devices to torch where an actor asks for none.
_LEAN = {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Pool:
    """A pool of equal actors.

    Attributes:
        actors: How many.
        cpus: CPUs that each holds; may be a fraction.
        gpus: GPUs that each holds.
        threads: Threads that each should use for arithmetic and decoding.
        in_flight: Items that each works on at once.
        feeders: Actors of one CPU each that prepare for the others.
    """

    actors: int
    cpus: float
    gpus: float
    threads: int
    in_flight: int
    feeders: int = 0


@contextmanager
def connect() -> Iterator[None]:
    """Connect to the cluster at `RAY_ADDRESS`, or start a local one on loopback without dashboard; leave it afterwards.

    Does nothing where the process is connected already.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lance warns of every fork; those here run another program at once.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        _init()
        # Ray has a handler of its own, which would end the process without a word.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _init() -> None:
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.WARNING)
        return
    os.environ.update(_LEAN)
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address="127.0.0.1",
    )


def has_gpu() -> bool:
    """Say whether the cluster has any GPU."""
    return bool(_total().get("GPU", 0) > 0)


def plan_pool(config: ClusterConfig) -> Pool:
    """Turn the cluster block of a config into numbers, by what the cluster has free.

    One actor per GPU; without GPUs one per machine, with all of its CPUs. Feeders: where there are GPUs, one for each
    CPU of the machines that have none.
    """
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    gpus = int(_total().get("GPU", 0))
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    actors = (gpus or len(machines)) if config.actors == "auto" else config.actors
    feeders = config.feeders
    if feeders == "auto":
        feeders = int(sum(machine.get("CPU", 0) for machine in machines if not machine.get("GPU"))) if gpus else 0
    gpus_each = (1.0 if gpus else 0.0) if config.gpus_per_actor == "auto" else config.gpus_per_actor
    # Leave a sliver for whoever else wants to start an actor: one that does not fit would wait without a word.
    share = max(0.01, (free.get("CPU", 0.0) - feeders) / actors - 0.01)
    cpus_each = share if config.cpus_per_actor == "auto" else config.cpus_per_actor
    threads = max(1, round(cpus_each)) if config.decode_threads == "auto" else config.decode_threads
    return Pool(actors, cpus_each, gpus_each, threads, config.leases_per_actor, feeders)


def _total() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
