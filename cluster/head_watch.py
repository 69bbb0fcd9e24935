"""Notice that the head of a cluster is gone, before Ray ends this process without a word.

Owns the question whether the head answers. Ray asks it by itself, and after `RAY_gcs_rpc_server_reconnect_timeout_s`
(60 s) without an answer it ends the process at once, with exit code 1. So a run gives up when three fifths of that time
are over; and a process that hangs in Ray is ended here when four fifths are, after what must be written. A head that
comes back before, as on Kubernetes with fault tolerance, is not noticed at all.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from schemas.errors import CLUSTER_LOST_CODE, ClusterLost
from schemas.last_words import say_last_words

_EVERY_S, _ANSWER_S = 2.0, 3.0
_GIVE_UP_AT, _END_AT, _SPOKEN_AT = 0.6, 0.8, 0.95
_lost = threading.Event()


@contextmanager
def watching_head() -> Iterator[None]:
    """While entered, ask the head every two seconds whether it is there; `raise_if_lost` says what came of it.

    Where the main thread waits in Ray and never asks, the process ends before Ray would end it, with the sentence, the
    exit code and the last words of `ClusterLost`.
    """
    _lost.clear()
    is_over = threading.Event()
    thread = threading.Thread(target=_watch, args=(is_over, answers), name="head-watch", daemon=True)
    thread.start()
    try:
        yield
    except RayError as error:
        raise_if_lost(error)
        raise
    finally:
        is_over.set()


def is_lost() -> bool:
    """Tell whether the head has not answered for so long that the run must end."""
    return _lost.is_set()


def raise_if_lost(cause: BaseException | None = None) -> None:
    """Raise if the head is given up.

    Raises:
        ClusterLost: It has not answered for three fifths of Ray's time limit.
    """
    if is_lost():
        raise ClusterLost(_sentence()) from cause


def answers() -> bool:
    """Ask the head whether it is there; waits three seconds at most. Ray's client asks by itself."""
    if not ray.is_initialized() or ray.util.client.ray.is_connected():  # type: ignore[no-untyped-call]
        return True
    client = ray._private.worker.global_worker.gcs_client  # type: ignore[attr-defined]
    try:
        client.internal_kv_exists(b"mlake", b"mlake", timeout=_ANSWER_S)
    except RayError:
        return False
    return True


def _limit_s() -> float:
    return float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112 - Ray's own name


def _sentence() -> str:
    where = os.environ.get("RAY_ADDRESS", "on this machine")
    return (
        f"the head of the cluster {where} has not answered for {_limit_s() * _GIVE_UP_AT:.0f} s, so the run ends; what "
        "was committed is kept; start the cluster again, and run the same command: it resumes"
    )


def _watch(is_over: threading.Event, ask: Callable[[], bool]) -> None:
    answered_at = time.monotonic()
    while not is_over.wait(_EVERY_S):
        if ask():
            answered_at = time.monotonic()
            continue
        silent_s = time.monotonic() - answered_at
        if silent_s >= _limit_s() * _GIVE_UP_AT:
            _lost.set()
        if silent_s >= _limit_s() * _END_AT:
            sys.stderr.write(_sentence() + "\n")
            sys.stderr.flush()
            say_last_words(ClusterLost(_sentence()), _limit_s() * (_SPOKEN_AT - _END_AT))
            os._exit(CLUSTER_LOST_CODE)
