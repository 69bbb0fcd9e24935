"""A connection to Ray: to the cluster that `RAY_ADDRESS` names, else to a local one that ends with the process.

Owns the one call of `ray.init`, what workers import, and how a run is asked to stop.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig

from cluster.head_watch import is_lost, watching_head
from schemas.errors import ClusterUnreachable, ConfigError, RunError

_LOG = logging.getLogger(__name__)
_STORE_BYTES = 256 << 20
_ANSWER_S = 5.0
_SAY_AFTER_S, _SAY_EVERY_S = 10.0, 30.0
_ASK_TO_STOP = (signal.SIGINT, signal.SIGTERM)
_HANDLERS_EVERY_S = 0.002
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
        ClusterLost: The head stopped to answer meanwhile; Ray is not left then, and the process should end.
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
        with watching_head():
            yield
        is_complete = True
    except BaseException:
        is_complete = False
        raise
    finally:
        _shut_down()
        if files is not None and is_complete:
            shutil.rmtree(files, ignore_errors=True)


def _shut_down() -> None:
    """Leave Ray without being interrupted; a signal that comes meanwhile takes effect afterwards.

    An exception in the middle of `ray.shutdown` leaves object references behind, and the first of them that Python
    frees then ends the process, with exit code 1 and without a word. Ray also puts SIGTERM back to what ends a process
    at once, before it has ended its own processes; so the handlers here are installed again and again until it is
    through. A SIGTERM in the milliseconds between ends this process with code -15.
    """
    if is_lost():
        return  # Ray would wait for the head
    if threading.current_thread() is not threading.main_thread():
        ray.shutdown()
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in _ASK_TO_STOP}

    def hold() -> None:
        for number in before:
            signal.signal(number, lambda number, _: held.append(number))

    hold()
    ending = threading.Thread(target=ray.shutdown, name="ray-shutdown")
    ending.start()
    while ending.is_alive():
        hold()
        ending.join(_HANDLERS_EVERY_S)
    for number, handler in before.items():
        signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


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
        self._before = {number: signal.signal(number, self._on_signal) for number in _ASK_TO_STOP}
        return self

    def __exit__(self, *exc: object) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
