"""One actor of a pool: how it starts, what it works on, and how it is lost.

Owns the state of one actor as the driver sees it, and the code that runs inside the actor. Owns no decision about
items: `actors.py` assigns and retries them.

An actor starts in two steps. `is_alive` answers once Ray has found room for the process, which may take long; then
`start` makes the worker. Items are assigned only after that, so that an actor that dies while it starts has none.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray._private.runtime_env.py_modules import upload_py_modules_if_needed
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from cluster.metrics import WorkerMetrics
from cluster.placement import PoolSize
from cluster.session import enter_folder
from schemas.errors import LakeError

_MAX_PARTS_AHEAD = 2
_MAX_FAILED_STARTS = 5
_PAUSE_S = 1.0
_EXPORT_S = 5.0


@dataclass
class Task:
    """An item on its way through the pool.

    Attributes:
        item: As it was given.
        failures: How often it has failed so far.
        is_alone: It runs in an actor with nothing else in flight, so if that actor dies, the item is to blame.
        began_s: When it was first given to an actor, by the monotonic clock.
        calls: In how many actors it is in flight; a late task runs in a second one as well.
        is_done: One of its calls has given the outcome; what the other gives is dropped.
        halvings: How often its worker halves its batches for it.
        lost_nodes: How many machines were lost while they worked on it.
        doubted_node: Id of the machine that was perhaps lost when it failed last.
        ended_actors: How many actors were ended so that it finds more memory.
    """

    item: Any
    failures: int = 0
    is_alone: bool = False
    began_s: float = 0.0
    calls: int = 0
    is_done: bool = False
    halvings: int = 0
    lost_nodes: int = 0
    doubted_node: str = ""
    ended_actors: int = 0


@dataclass
class ActorSlot:
    """The place of one actor in a pool. Ray starts an actor again in the same slot when it dies.

    Attributes:
        actor: Handle of the actor.
        starting: The call of `is_alive` or `start` that is on its way, if any.
        has_process: The process answers; the next call makes the worker.
        is_up: The worker is ready.
        is_lost: The actor cannot start, or was ended, and is not asked again.
        failed_starts: How often in a row the worker could not be made.
        tasks: Tasks in flight, by their calls.
        counters: The worker's counters as last seen.
        counters_call: The call that asks for the next, if it is on its way.
        node: Id of the node on which the worker was made last.
        worker: Ray's id of the process in which it was made.
    """

    actor: Any
    starting: Any = None
    has_process: bool = False
    is_up: bool = False
    is_lost: bool = False
    failed_starts: int = 0
    tasks: dict[Any, Task] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    counters_call: Any = None
    node: str = ""
    worker: str = ""
    _next_poll_at: float = 0.0
    _ask_counters_at: float = 0.0

    def has_room(self, in_flight: int) -> bool:
        """Tell whether the actor can take another task beside those it has."""
        return self.is_up and len(self.tasks) < in_flight and not any(task.is_alone for task in self.tasks.values())

    def assign(self, task: Task, feeder: Any) -> None:
        """Give the actor a task; `feeder` is the actor that prepares its item, or None."""
        if not task.calls:
            task.began_s = time.monotonic()
        task.calls += 1
        self.tasks[self.actor.run.remote(task.item, feeder, task.halvings)] = task

    def poll_starting(self) -> None:
        """Ask an actor that is not up for the next step of its start."""
        if self.starting is None and not self.is_up and not self.is_lost and time.monotonic() >= self._next_poll_at:
            self.starting = self.actor.start.remote() if self.has_process else self.actor.is_alive.remote()

    def on_started(self) -> float | None:
        """Read the answer to `poll_starting`, which is there.

        Returns:
            When the worker was made, in seconds since the epoch; None while it is not.

        Raises:
            LakeError: The worker refuses its config.
            ActorLost: The actor cannot start; it is not asked again.
        """
        call, self.starting = self.starting, None
        try:
            answer = ray.get(call)
        except RayError as error:
            self.on_start_failed(error)
            return None
        if not self.has_process:
            self.has_process = True
            return None
        self.is_up, self.failed_starts = True, 0
        made_at, self.node, self.worker = answer
        return float(made_at)

    def on_start_failed(self, error: RayError) -> None:
        """Ask again after a pause; not when Ray has given the actor up, or its worker failed too often."""
        self.failed_starts += self.has_process
        self._next_poll_at = time.monotonic() + _PAUSE_S
        cause = (isinstance(error, RayTaskError) and error.cause) or error
        if isinstance(cause, LakeError):
            raise cause from None
        self.has_process = self.has_process and isinstance(error, RayTaskError)
        is_gone = not isinstance(error, RayTaskError | ActorUnavailableError)
        if is_gone or self.failed_starts >= _MAX_FAILED_STARTS:
            self.is_lost = True
            raise ActorLost(f"{type(cause).__name__}: {' '.join(str(cause).split())}") from error

    def on_died(self) -> dict[str, int]:
        """Wait for the actor that Ray starts in place of the dead one; return what the dead one had counted."""
        if not self.is_up:
            return {}
        counted, self.counters, self.counters_call = self.counters, {}, None
        self.is_up = self.has_process = False
        return counted

    def end(self) -> None:
        """End the actor for good; the tasks that it has in flight fail."""
        self.is_lost, self.is_up, self.starting = True, False, None
        ray.kill(self.actor)

    def take_counters(self) -> None:
        """Take the worker's counters, which have arrived."""
        with suppress(RayError):
            self.counters = ray.get(self.counters_call)
        self.counters_call = None

    def ask_counters(self, every_s: float) -> None:
        """Ask for the worker's counters, unless they are on their way or were asked for less than `every_s` ago."""
        now = time.monotonic()
        if self.counters_call is None and self.is_up and now >= self._ask_counters_at:
            self._ask_counters_at = now + every_s
            self.counters_call = self.actor.progress.remote()


class ActorLost(Exception):
    """An actor cannot start."""


def start_slots(
    make_worker: Callable[[], Any], size: PoolSize, metric_tags: Mapping[str, str] | None = None
) -> list[ActorSlot]:
    """Start the actors of a pool, spread over the machines."""
    options: dict[str, Any] = {
        "num_cpus": size.cpus,
        "num_gpus": size.gpus,
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": size.in_flight,
        "concurrency_groups": {"watch": 1},
        "scheduling_strategy": "SPREAD",
        **modules_option(size),
    }
    actor_class = ray.remote(**options)(_WorkerActor)
    return [ActorSlot(actor_class.remote(make_worker, str(Path.cwd()), metric_tags)) for _ in range(size.actors)]


def modules_option(size: PoolSize) -> dict[str, Any]:
    """Return the options of an actor that gets copies of the pool's local modules; sends them to the cluster."""
    if not size.modules:
        return {}
    # Ray sends folders for a whole job only; for an actor it takes addresses of what was sent.
    with tempfile.TemporaryDirectory(prefix="mlake-modules-") as scratch:
        environment = {"py_modules": list(size.modules)}
        return {"runtime_env": upload_py_modules_if_needed(environment, include_gitignore=False, scratch_dir=scratch)}


class _WorkerActor:
    def __init__(
        self, make_worker: Callable[[], Any], folder: str, metric_tags: Mapping[str, str] | None = None
    ) -> None:
        enter_folder(folder)
        self._make_worker = make_worker
        self._metrics = WorkerMetrics(metric_tags) if metric_tags else None
        self._lock = threading.Lock()
        self._worker: Any = None
        self._made_at = 0.0

    def is_alive(self) -> bool:
        return True

    def start(self) -> tuple[float, str, str]:
        with self._lock:
            if self._worker is None:
                self._worker = self._make_worker()
                self._made_at = time.time()
                if self._metrics is not None:
                    threading.Thread(target=self._export, name="metrics", daemon=True).start()
        context = ray.get_runtime_context()
        return self._made_at, context.get_node_id(), context.get_worker_id()

    def run(self, item: Any, feeder: Any, halvings: int) -> Any:
        if halvings:
            self._worker.lighten(halvings)
        try:
            return self._run(item, feeder, halvings)
        finally:
            if self._metrics is not None:  # also now, since an actor that has nothing more to do is ended
                self._metrics.update(self._worker.progress())

    def _run(self, item: Any, feeder: Any, halvings: int) -> Any:
        if feeder is None:
            return self._worker.run(item)
        stream = feeder.feed.options(num_returns="streaming", _generator_backpressure_num_objects=_MAX_PARTS_AHEAD)
        parts = stream.remote(item, halvings)
        return self._worker.run(item, (ray.get(part) for part in parts))

    def _export(self) -> None:
        while self._metrics is not None:
            self._metrics.update(self._worker.progress())
            time.sleep(_EXPORT_S)

    @ray.method(concurrency_group="watch")
    def progress(self) -> dict[str, int]:
        counters: dict[str, int] = self._worker.progress()
        return counters
