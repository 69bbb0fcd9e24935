"""A connection to Ray: to the cluster that `RAY_ADDRESS` names, else to a local one that ends with the process.

Owns the one call of `ray.init`, what workers import, how large a pool is, and how a run is asked to stop.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig

from schemas.config import ClusterConfig
from schemas.errors import ClusterUnreachable, ConfigError, RunError

_LOG = logging.getLogger(__name__)
_STORE_BYTES = 256 << 20
_ANSWER_S = 5.0
_SAY_AFTER_S, _SAY_EVERY_S = 10.0, 30.0
_MAX_ACTORS_PER_CPU = 16
_PACKAGES = str(Path(__file__).resolve().parent.parent)
# A local cluster starts workers when they are needed, and leaves devices to torch where an actor asks for none.
_LEAN = {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray replaces 127.0.0.1 by an address that others can reach, except where this switch is off.
_OTHERS_CAN_JOIN = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def connect() -> Iterator[None]:
    """Connect to the cluster at `RAY_ADDRESS`, or start a local one on loopback without dashboard; leave it afterwards.

    Workers import the packages that this process runs, whatever folders the user's directory holds. Does nothing where
    the process is connected already. The files of a local cluster are removed when it ends without an error.

    Raises:
        ConfigError: `RAY_ADDRESS` is not an address.
        RunError: Nothing answers there, or Ray does not start on this machine.
        KeyboardInterrupt: SIGTERM came while Ray started.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lance warns of every fork; those here run another program at once.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            with _in_folder(_PACKAGES):
                _init()
        finally:
            # Ray installs a handler of its own, which would end the process without a word.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
    files = _local_files()
    try:
        yield
        is_complete = True
    except BaseException:
        is_complete = False
        raise
    finally:
        ray.shutdown()
        if files is not None and is_complete:
            shutil.rmtree(files, ignore_errors=True)


def _local_files() -> Path | None:
    """Return the folder of logs and sockets of a local cluster; None for one that others use too."""
    if os.environ.get("RAY_ADDRESS"):
        return None
    node = ray._private.worker._global_node
    return None if node is None else Path(node.get_session_dir_path())


def _init() -> None:
    """Call `ray.init`, and turn what it raises into one sentence."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_address(address)
    where = f"Ray at RAY_ADDRESS={address}" if address else "Ray to start on this machine"
    try:
        with saying_that_it_waits(where):
            _connect_or_start(address)
    except SystemExit as ended:
        if ended.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt from None  # from the handler that Ray has while it starts
    except Exception as error:  # Ray raises plain `Exception` for most of what goes wrong here
        reason = " ".join(str(error).split()) or type(error).__name__
        if address:
            raise ClusterUnreachable(
                f"cannot connect to RAY_ADDRESS={address}: {reason}; start that cluster, or unset RAY_ADDRESS to run "
                "on this machine"
            ) from error
        raise RunError(
            f"Ray does not start on this machine: {reason}; its logs are in /tmp/ray/session_latest/logs; free memory "
            "and CPUs, and run the same command again: it resumes"
        ) from error


def _check_address(address: str) -> None:
    """Refuse an address that is none, or where nothing answers; Ray itself waits for minutes."""
    if address in ("auto", "local"):
        return
    parts = re.fullmatch(r"(?:ray://)?(?:\[([^\]]+)\]|([^:/\s]+)):(\d{1,5})", address)
    if parts is None or not 0 < int(parts[3]) < 65536:
        raise ConfigError(
            f"RAY_ADDRESS={address} is not the address of a cluster; write host:port, ray://host:port or auto, or "
            "unset it to run on this machine"
        )
    try:
        socket.create_connection((parts[1] or parts[2], int(parts[3])), timeout=_ANSWER_S).close()
    except OSError as error:
        raise ClusterUnreachable(
            f"nothing answers at RAY_ADDRESS={address}: {error.strerror or error}; start that cluster, or unset "
            "RAY_ADDRESS to run on this machine"
        ) from None


@contextmanager
def saying_that_it_waits(
    what: str, after_s: float = _SAY_AFTER_S, every_s: float = _SAY_EVERY_S
) -> Iterator[threading.Event]:
    """Say that the block waits for something, if it takes long, and again while it does; setting the event ends it."""
    is_done = threading.Event()

    def say() -> None:
        waited_s = after_s
        while not is_done.wait(after_s if waited_s == after_s else every_s):
            _LOG.warning("waiting for %s (%.0f s)", what, waited_s)
            waited_s += every_s

    thread = threading.Thread(target=say, name="waiting", daemon=True)
    thread.start()
    try:
        yield is_done
    finally:
        is_done.set()
        thread.join()


def _connect_or_start(address: str | None) -> None:
    # Ray puts the driver's current directory first on the workers' sys.path, ahead of PYTHONPATH; `connect` makes that
    # the folder of our packages. Under `ray job submit --working-dir` Ray adds no folder, and PYTHONPATH starts with
    # the submitted one; what the job config names stands ahead of it.
    job = JobConfig(_py_driver_sys_path=[_PACKAGES])
    if address:
        ray.init(address=address, job_config=job, log_to_driver=False, logging_level=logging.WARNING)
        return
    os.environ.update(_LEAN)
    os.environ[_OTHERS_CAN_JOIN] = "0"  # for Ray's own processes; this one has read it already
    ray_constants.ENABLE_RAY_CLUSTER = False
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

    Raises:
        ConfigError: The local cluster can never hold the pool, which would wait for ever. Another cluster may grow.
    """
    gpus = int(_resources().get("GPU", 0))
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    actors = (gpus or len(machines)) if config.actors == "auto" else config.actors
    feeders = config.feeders
    if feeders == "auto":
        feeders = int(sum(machine.get("CPU", 0) for machine in machines if not machine.get("GPU"))) if gpus else 0
    gpus_each = (1.0 if gpus else 0.0) if config.gpus_per_actor == "auto" else config.gpus_per_actor
    free_by_node = _free_by_node()
    fitting = [node for node in free_by_node if not gpus_each or node.get("GPU")]
    free = [node.get("CPU", 0.0) for node in (fitting or free_by_node)]
    share = largest_share(free if gpus_each else _without_feeders(free, feeders), actors)
    cpus_each = share if config.cpus_per_actor == "auto" else config.cpus_per_actor
    threads = max(1, round(cpus_each)) if config.decode_threads == "auto" else config.decode_threads
    size = PoolSize(actors, cpus_each, gpus_each, threads, config.leases_per_actor, feeders)
    if not os.environ.get("RAY_ADDRESS"):
        _check_fits(size, _resources())
    return size


def _free_by_node() -> list[dict[str, float]]:
    """Return what each machine has free. Ray reports what an actor held for a moment after it has ended."""
    for waited_s in (0.0, 0.5, 1.0):
        time.sleep(waited_s)
        free: list[dict[str, float]] = [*ray._private.state.available_resources_per_node().values()]  # type: ignore[no-untyped-call]
        if sum(node.get("CPU", 0.0) for node in free) >= _resources().get("CPU", 0.0):
            break
    return free


def largest_share(free: Sequence[float], actors: int) -> float:
    """Return the most CPUs that each of some actors can hold, if every one has to find room on one machine.

    A sliver of a CPU is left for others, since an actor that does not fit waits without an error.

    Args:
        free: Free CPUs of each machine.
        actors: How many there are.
    """
    shares = {cpus / number for cpus in free for number in range(1, actors + 1)}
    fitting = [share for share in shares if share and sum(int(cpus / share + 1e-9) for cpus in free) >= actors]
    return max(0.01, max(fitting, default=0.0) - 0.01)


def _without_feeders(free: Sequence[float], feeders: int) -> list[float]:
    """Take a CPU for each feeder from the machines that have most."""
    left = list(free)
    for _ in range(feeders if left else 0):
        left[left.index(max(left))] -= 1
    return [max(0.0, cpus) for cpus in left]


def _check_fits(size: PoolSize, has: dict[str, float]) -> None:
    """Refuse a pool that this machine cannot hold."""
    cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    remedy = "lower it, or set RAY_ADDRESS to a cluster that has more"
    if size.cpus > cpus:
        raise ConfigError(f"cluster.cpus_per_actor={size.cpus:g}, and this machine has {cpus:g} CPUs; {remedy}")
    if size.gpus > gpus:
        raise ConfigError(f"cluster.gpus_per_actor={size.gpus:g}, and this machine has {gpus:g} GPUs; {remedy}")
    if size.actors > _MAX_ACTORS_PER_CPU * max(1.0, cpus):
        most = int(_MAX_ACTORS_PER_CPU * max(1.0, cpus))
        raise ConfigError(
            f"cluster.actors={size.actors}, and this machine has {cpus:g} CPUs, for up to {most} actors; {remedy}"
        )
    if size.feeders and size.feeders + size.actors * size.cpus > cpus:
        raise ConfigError(
            f"cluster.feeders={size.feeders} take a CPU each beside {size.actors} actors of {size.cpus:g} CPUs, and "
            f"this machine has {cpus:g} CPUs; {remedy}"
        )


def check_workers(workers: int) -> None:
    """Refuse more training workers than this machine can hold; each holds a GPU where there is one.

    Raises:
        ConfigError: There are too many. Another cluster may grow.
    """
    has = _resources()
    kind = "GPU" if has.get("GPU") else "CPU"
    most = int(has.get("GPU", 0)) or int(_MAX_ACTORS_PER_CPU * max(1.0, has.get("CPU", 0.0)))
    if workers > most and not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            f"run.workers={workers}, and this machine has {has.get(kind, 0.0):g} {kind}s, for up to {most} workers; "
            "lower it, or set RAY_ADDRESS to a cluster that has more"
        )


def describe_cluster() -> str:
    """Return what the cluster has and what is free, for a message about what cannot be placed."""
    has, free = _resources(), dict(ray.available_resources())  # type: ignore[no-untyped-call]
    return ", ".join(f"{has.get(kind, 0.0):g} {kind}s ({free.get(kind, 0.0):g} free)" for kind in ("CPU", "GPU"))


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
