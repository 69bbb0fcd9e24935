"""What goes wrong in a trial, and how. Each fault is given a run that is under way, and spoils it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.processes import actors_below, command, descendants, end_tree, kill, raylets_below
from tests.chaos.stage import Stage
from tests.support.drivers import ROOT

_RUN_S = 6.0  # about how long a run takes: what is random in time is spread over this
_WORK_S = 2.5  # about how long from the first sign of an actor to its last lease


@dataclass
class Run:
    """A run that a fault may spoil.

    Attributes:
        stage: Where it happens.
        argv: The job's command line.
        said: File that takes what the drivers say.
        dice: The trial's own.
        landed: Returns the share of shards that have landed so far.
    """

    stage: Stage
    argv: list[str]
    said: Path
    dice: random.Random
    landed: Callable[[], float]


def undisturbed(run: Run) -> list[int]:
    """Nothing goes wrong."""
    with run.stage.driver() as driver:
        return [driver.run(run.argv, run.said)]


def kill_driver(run: Run) -> list[int]:
    """The driver is killed."""
    with run.stage.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.said)
        _wait_for_the_moment(run, code, run.stage.head_pid)
        kill(driver.pid)
        return [code.result()]


def kill_actors(run: Run) -> list[int]:
    """Actors are killed, one to three times in all."""
    with run.stage.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.said)
        for _ in range(run.dice.randint(1, 3)):
            _wait_for_the_moment(run, code, run.stage.head_pid)
            actors = actors_below(run.stage.head_pid)
            if actors and not code.done():
                kill(run.dice.choice(actors))
        return [code.result()]


def kill_node(run: Run) -> list[int]:
    """The cluster loses a node, with all that runs on it."""
    node = run.stage.second_node()
    with run.stage.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.said)
        _wait_for_the_moment(run, code, run.stage.head_pid)
        for raylet in raylets_below(node):
            kill(raylet)
        end_tree(node)
        return [code.result()]


def two_drivers(run: Run) -> list[int]:
    """Two drivers do the same work at once; in half of the trials one of them is killed."""
    with run.stage.driver() as first, run.stage.driver() as second, ThreadPoolExecutor(2) as pool:
        codes = [pool.submit(first.run, run.argv, run.said)]
        time.sleep(run.dice.choice((0.0, 0.1, 0.5, 2.0)))
        codes.append(pool.submit(second.run, run.argv, run.said))
        if run.dice.random() < 0.5:
            _wait_for_the_moment(run, codes[0], run.stage.head_pid)
            kill(run.dice.choice((first, second)).pid)
        return [code.result() for code in codes]


def stop_driver(run: Run) -> list[int]:
    """The driver is asked to stop, once or twice, by SIGINT or SIGTERM."""
    with run.stage.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.said)
        _wait_for_the_moment(run, code, run.stage.head_pid)
        for _ in range(run.dice.randint(1, 2)):
            if not code.done():
                kill(driver.pid, run.dice.choice((signal.SIGINT, signal.SIGTERM)))
            time.sleep(run.dice.uniform(0, 0.3))
        return [code.result()]


def kill_local_cluster(run: Run) -> list[int]:
    """A driver with a cluster of its own loses the raylet or the control service of it."""
    environment = {name: value for name, value in run.stage.environment.items() if name != "RAY_ADDRESS"}
    environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # a minute by default, in which nothing happens
    with run.said.open("ab") as said:
        driver = subprocess.Popen(
            [sys.executable, "-m", "jobs", *run.argv],
            env=environment,
            cwd=ROOT,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    with ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.wait)
        try:
            _wait_for_the_moment(run, code, driver.pid)
            if not code.done():
                parts = [pid for pid in descendants(driver.pid) if _is_part(pid)]
                if parts:
                    kill(run.dice.choice(parts))
                else:
                    driver.kill()
            return [code.result(90)]
        finally:
            end_tree(driver.pid)


def _is_part(pid: int) -> bool:
    return any(name in command(pid) for name in ("/raylet/raylet ", "/gcs/gcs_server "))


def _wait_for_the_moment(run: Run, code: Future[int], ray_pid: int) -> None:
    """Wait until a random moment: of the run's whole time, of its actors' first seconds, or of its progress."""
    kind = run.dice.choice(("time", "actors", "actors", "progress", "progress"))
    share = run.dice.uniform(0, 0.9)
    deadline = time.monotonic() + (run.dice.uniform(0, _RUN_S) if kind == "time" else 60)
    while not code.done() and time.monotonic() < deadline:
        if kind == "progress" and run.landed() > share:
            time.sleep(run.dice.uniform(0, 0.02))
            return
        if kind == "actors" and actors_below(ray_pid):
            time.sleep(run.dice.uniform(0, _WORK_S))
            return
        time.sleep(0.005)


# Exit codes that a run may end with. Where the store fails, it may give up for the time being.
_COMPLETE, _STOPPED, _NOT_COMPLETE, _KILLED = 0, 130, 1, -signal.SIGKILL
FAULTS: dict[str, Callable[[Run], list[int]]] = {
    "undisturbed": undisturbed,
    "kill_driver": kill_driver,
    "kill_actors": kill_actors,
    "kill_node": kill_node,
    "two_drivers": two_drivers,
    "stop_driver": stop_driver,
    "kill_local_cluster": kill_local_cluster,
    "bad_network": undisturbed,  # the network is what disturbs it
}
ALLOWED: dict[str, tuple[int, ...]] = {
    "undisturbed": (_COMPLETE,),
    "kill_driver": (_COMPLETE, _KILLED),
    "kill_actors": (_COMPLETE,),
    "kill_node": (_COMPLETE,),
    "two_drivers": (_COMPLETE, _KILLED),
    "stop_driver": (_COMPLETE, _STOPPED),
    "kill_local_cluster": (_COMPLETE, _KILLED, _NOT_COMPLETE),
    "bad_network": (_COMPLETE, _NOT_COMPLETE),
}
# Of a hundred trials, how many meet each fault.
SHARES = {
    "undisturbed": 3,
    "kill_driver": 25,
    "kill_actors": 20,
    "kill_node": 9,
    "two_drivers": 15,
    "stop_driver": 6,
    "kill_local_cluster": 5,
    "bad_network": 17,
}
