"""A connection to Ray: to the cluster that `RAY_ADDRESS` names, else to a local one that ends with the process.

Owns the one call of `ray.init`, what workers import, how large a pool is, and how a run is asked to stop.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import ray
from ray.job_config import JobConfig

from schemas.config import ClusterConfig

_STORE_BYTES = 256 << 20
_PACKAGES = str(Path(__file__).resolve().parent.parent)
# A local cluster starts workers when they are needed, and leaves devices to torch where an actor asks for none.
_LEAN = {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def connect() -> Iterator[None]:
    """Connect to the cluster at `RAY_ADDRESS`, or start a local one on loopback without dashboard; leave it afterwards.

    Workers import the packages that this process runs, whatever folders the user's directory holds. Does nothing where
    the process is connected already.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lance warns of every fork; those here run another program at once.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        with _in_folder(_PACKAGES):
            _init()
        # Ray installs a handler of its own, which would end the process without a word.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _init() -> None:
    # Ray puts the driver's current directory first on the workers' sys.path, ahead of PYTHONPATH; `connect` makes that
    # the folder of our packages. Under `ray job submit --working-dir` Ray adds no folder, and PYTHONPATH starts with
    # the submitted one; what the job config names stands ahead of it.
    job = JobConfig(_py_driver_sys_path=[_PACKAGES])
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], job_config=job, log_to_driver=False, logging_level=logging.WARNING)
        return
    os.environ.update(_LEAN)
    ray.init(
        address="local",
        job_config=job,
        include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address="127.0.0.1",
    )


@contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def enter_folder(folder: str) -> None:
    """Make the driver's current directory that of this worker, so that relative addresses mean the same in both.

    On a machine that has no such folder the worker stays where it is.
    """
    with suppress(OSError):
        os.chdir(folder)


@dataclass(frozen=True)
class PoolSize:
    """How many actors a pool has, and what each holds.

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


def plan_pool(config: ClusterConfig) -> PoolSize:
    """Turn the cluster block of a config into numbers, by what the cluster has free.

    One actor per GPU; without GPUs one per machine, with all of its CPUs. Feeders: where there are GPUs, one for each
    CPU of the machines that have none.
    """
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    gpus = int(_resources().get("GPU", 0))
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    actors = (gpus or len(machines)) if config.actors == "auto" else config.actors
    feeders = config.feeders
    if feeders == "auto":
        feeders = int(sum(machine.get("CPU", 0) for machine in machines if not machine.get("GPU"))) if gpus else 0
    gpus_each = (1.0 if gpus else 0.0) if config.gpus_per_actor == "auto" else config.gpus_per_actor
    # Leave a sliver of a CPU for others: an actor that does not fit waits without an error.
    share = max(0.01, (free.get("CPU", 0.0) - feeders) / actors - 0.01)
    cpus_each = share if config.cpus_per_actor == "auto" else config.cpus_per_actor
    threads = max(1, round(cpus_each)) if config.decode_threads == "auto" else config.decode_threads
    return PoolSize(actors, cpus_each, gpus_each, threads, config.leases_per_actor, feeders)


def has_gpu() -> bool:
    """Tell whether the cluster has any GPU."""
    return bool(_resources().get("GPU", 0) > 0)


def _resources() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


class Stop:
    """While entered, the first SIGINT or SIGTERM sets `is_asked`; the second raises KeyboardInterrupt.

    Enter it after Ray is connected, which installs handlers of its own.

    Attributes:
        is_asked: The run should finish what is in flight and stop.
    """

    def __init__(self) -> None:
        """Change no handler yet."""
        self.is_asked = False

    def __enter__(self) -> Stop:
        """Install the handlers."""
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
