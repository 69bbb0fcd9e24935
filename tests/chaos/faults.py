"""The faults of the trials. Each fault starts a run, disturbs it, and returns the exit codes."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from pipelines.funnel import Funnel
from pipelines.tables import maintenance
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.errors import TableNotFound
from tests.chaos.processes import actors_below, command, descendants, end_tree, kill, raylets_below
from tests.chaos.shared_cluster import SharedCluster
from tests.support.drivers import ROOT

_CLOCK = threading.Lock()  # the trials have the module in common
_RUN_S = 6.0  # about how long a run takes: what is random in time is spread over this
_ROTATE_S, _TUNE_S, _CLEAN_S = 3.0, 0.4, 0.12  # and about how long these take
_WORK_S = 2.5  # about how long from the first sign of an actor to its last lease


@dataclass
class Run:
    """A run that a fault disturbs.

    Attributes:
        shared: The cluster, server and drivers to use.
        argv: The job's command line.
        log: File that receives the output of the drivers.
        rng: The trial's own.
        committed_share: Returns the share of shards that have committed_share so far.
        table: Address of the table.
        rewrite: Gives a random shard another content.
        lose: Deletes a random companion of the table.
    """

    shared: SharedCluster
    argv: list[str]
    log: Path
    rng: random.Random
    committed_share: Callable[[], float]
    table: str
    rewrite: Callable[[], None]
    lose: Callable[[], None]


def undisturbed(run: Run) -> list[int]:
    """Run without a fault."""
    with run.shared.driver() as driver:
        return [driver.run(run.argv, run.log)]


def kill_driver(run: Run) -> list[int]:
    """Kill the driver."""
    with run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.log)
        _wait_for_a_random_moment(run, code, run.shared.head_pid)
        driver.send_signal(signal.SIGKILL)
        return [code.result()]


def kill_actors(run: Run) -> list[int]:
    """Kill one to three actors."""
    with run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.log)
        for _ in range(run.rng.randint(1, 3)):
            _wait_for_a_random_moment(run, code, run.shared.head_pid)
            actors = actors_below(run.shared.head_pid)
            if actors and not code.done():
                kill(run.rng.choice(actors))
        return [code.result()]


def kill_node(run: Run) -> list[int]:
    """Kill a node of the cluster, with all that runs on it."""
    node = run.shared.second_node()
    with run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.log)
        _wait_for_a_random_moment(run, code, run.shared.head_pid)
        for raylet in raylets_below(node):
            kill(raylet)
        end_tree(node)
        return [code.result()]


def two_drivers(run: Run) -> list[int]:
    """Let two drivers do the same work at once; in half of the trials, kill one of them."""
    with run.shared.driver() as first, run.shared.driver() as second, ThreadPoolExecutor(2) as pool:
        codes = [pool.submit(first.run, run.argv, run.log)]
        time.sleep(run.rng.choice((0.0, 0.1, 0.5, 2.0)))
        codes.append(pool.submit(second.run, run.argv, run.log))
        if run.rng.random() < 0.5:
            _wait_for_a_random_moment(run, codes[0], run.shared.head_pid)
            run.rng.choice((first, second)).send_signal(signal.SIGKILL)
        return [code.result() for code in codes]


def stop_driver(run: Run) -> list[int]:
    """Ask the driver to stop, once or twice, by SIGINT or SIGTERM."""
    with run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.log)
        _wait_for_a_random_moment(run, code, run.shared.head_pid)
        for _ in range(run.rng.randint(1, 2)):
            if not code.done():
                driver.send_signal(run.rng.choice((signal.SIGINT, signal.SIGTERM)))
            time.sleep(run.rng.uniform(0, 0.3))
        return [code.result()]


def impatient_cleaner(run: Run) -> list[int]:
    """Beside the driver, clean as if every run that is silent for a moment were dead, by a clock that is hours off."""
    with run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.log)
        while not code.done():
            time.sleep(run.rng.uniform(0, 1))
            _clean(run)
        return [code.result()]


def suspended_driver(run: Run) -> list[int]:
    """Stop the driver by SIGSTOP until a cleaner has taken it for dead, then let it go on."""
    with run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.log)
        for _ in range(run.rng.randint(1, 3)):
            _wait_for_a_random_moment(run, code, run.shared.head_pid)
            kill(driver.pid, signal.SIGSTOP)
            time.sleep(run.rng.uniform(0.1, 0.5))
            _clean(run)
            kill(driver.pid, signal.SIGCONT)
        return [code.result()]


def kill_cleaner(run: Run) -> list[int]:
    """Let `mlake clean --compact` work beside the driver, and kill it at a random moment."""
    with run.shared.driver() as driver, run.shared.driver() as cleaner, ThreadPoolExecutor(2) as pool:
        code = pool.submit(driver.run, run.argv, run.log)
        while not code.done():
            cleaning = pool.submit(cleaner.run, ["clean", run.table, "--compact", "--older-than", "0"], run.log)
            if run.rng.random() < 0.3 and cleaner.is_alive():
                time.sleep(run.rng.uniform(0, 0.5))
                kill(cleaner.pid)
            cleaning.result()
            if not cleaner.is_alive():
                break
            time.sleep(run.rng.uniform(0, 0.5))
        return [code.result()]


def lose_companion(run: Run) -> list[int]:
    """Kill the driver and delete a companion of the table."""
    codes = kill_driver(run)
    run.lose()
    return codes


def rewrite_shards(run: Run) -> list[int]:
    """Give shards another content while they are read."""
    with run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.run, run.argv, run.log)
        for _ in range(run.rng.randint(1, 4)):
            _wait_for_a_random_moment(run, code, run.shared.head_pid)
            run.rewrite()
        return [code.result()]


def kill_clean(run: Run) -> list[int]:
    """Kill `mlake clean --compact` again and again; the table stays as it is, and a last one leaves nothing over."""
    codes = kill_driver(run) + undisturbed(run)  # files that nobody has committed, and older versions
    before = _rows(run)
    for attempt in range(run.rng.randint(2, 4)):
        with run.shared.driver() as cleaner, ThreadPoolExecutor(1) as pool:
            clean = ["clean", run.table, "--compact", "--older-than", "0"]
            code = pool.submit(cleaner.run, clean, run.log)
            with contextlib.suppress(TimeoutError):
                code.result(run.rng.uniform(0, _CLEAN_S))
            if not code.done():
                cleaner.send_signal(signal.SIGKILL)
            codes.append(code.result())
        assert _rows(run) == before, f"other rows are there after clean number {attempt + 1} was killed"
    _clean(run)
    with run.shared.driver() as cleaner:
        codes.append(cleaner.run(clean, run.log))
    assert _rows(run) == before, "other rows are there after the last clean"
    assert len(VectorTable.open(run.table).dataset.versions()) == 1, "older versions are left"
    left = maintenance.unneeded_files(run.table, StorageConfig())["path"].to_pylist()
    assert not left, f"files are left that no version needs: {left}"
    return codes


def _rows(run: Run) -> list[dict[str, object]]:
    rows = VectorTable.open(run.table).dataset.to_table()
    return sorted(rows.to_pylist(), key=lambda row: str(row["id"]))


def kill_rotate(run: Run) -> list[int]:
    """Embed, then kill rotations of the table until one is through, and clean impatiently after each."""
    rotate = ["rotate", run.table, "--even-if-trained"]
    codes = undisturbed(run) + _kill_until_through(
        run, rotate, _ROTATE_S, lambda table: table.space.rotation is not None
    )
    run.argv += ["--set", "rotation.kind=pca"]
    return codes


def kill_funnel(run: Run) -> list[int]:
    """Embed, then kill tunings of a funnel until one is through, and clean impatiently after each; search by it."""
    tune = ["funnel", run.table, "--stages", "64:int8:20,256:5"]
    codes = undisturbed(run) + _kill_until_through(run, tune, _TUNE_S, lambda table: "memory" in Funnel.homes(table))
    table = VectorTable.open(run.table)
    found = Funnel.open(table).search(like=table.head(1)["id"][0].as_py(), k=4)
    assert found.num_rows == 4, f"a search by the funnel finds {found.num_rows} rows"
    assert not maintenance.find_spare(table, dt.timedelta(0)), "codebooks are left that nothing refers to"
    return codes


def _kill_until_through(
    run: Run, argv: list[str], lasts_s: float, is_through: Callable[[VectorTable], bool]
) -> list[int]:
    """Kill a job of about this length up to three times, then let it end; clean after each, and read every row."""
    codes = []
    for attempt in range(4):
        with run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
            code = pool.submit(driver.run, argv, run.log)
            with contextlib.suppress(TimeoutError):
                code.result(run.rng.uniform(0, lasts_s) if attempt < 3 else None)
            if not code.done():
                driver.send_signal(signal.SIGKILL)
            codes.append(code.result())
        _clean(run)
        table = VectorTable.open(run.table)
        len(table.dataset.to_table())  # nothing that is needed was deleted
        if is_through(table):
            break
    return codes


def _clean(run: Run) -> None:
    clean_impatiently(run.table, run.rng)


def clean_impatiently(uri: str, rng: random.Random) -> None:
    """Clean with a patience of a moment, by a clock that is hours off; there may be no table yet."""
    hours = dt.timedelta(hours=rng.choice((-30, 0, 30)))

    class Apart(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return dt.datetime.now(tz) + hours

    clock = SimpleNamespace(**vars(dt) | {"datetime": Apart})  # of this module alone: S3 refuses a wrong time
    with contextlib.suppress(TableNotFound), _CLOCK, mock.patch.object(maintenance, "dt", clock):
        table = VectorTable.open(uri)
        silent_for = dt.timedelta(milliseconds=50)
        maintenance.delete_orphans(table, maintenance.find_orphans(table, silent_for))
        maintenance.delete_spare(table, silent_for)


def kill_local_cluster(run: Run) -> list[int]:
    """Kill the raylet or the control service of a driver's own local cluster."""
    environment = {name: value for name, value in run.shared.environment.items() if name != "RAY_ADDRESS"}
    environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # a minute by default, in which nothing happens
    with run.log.open("ab") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "jobs", *run.argv],
            env=environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with ThreadPoolExecutor(1) as pool:
        code = pool.submit(driver.wait)
        try:
            _wait_for_a_random_moment(run, code, driver.pid)
            if not code.done():
                parts = [pid for pid in descendants(driver.pid) if _is_part(pid)]
                if parts:
                    kill(run.rng.choice(parts))
                else:
                    driver.kill()
            return [code.result(500)]
        finally:
            end_tree(driver.pid)


def _is_part(pid: int) -> bool:
    return any(name in command(pid) for name in ("/raylet/raylet ", "/gcs/gcs_server "))


def _wait_for_a_random_moment(run: Run, code: Future[int], ray_pid: int) -> None:
    """Wait for a random moment of the run's time, of its actors' first seconds, or of its progress."""
    kind = run.rng.choice(("time", "actors", "actors", "progress", "progress"))
    share = run.rng.uniform(0, 0.9)
    deadline = time.monotonic() + (run.rng.uniform(0, _RUN_S) if kind == "time" else 60)
    while not code.done() and time.monotonic() < deadline:
        if kind == "progress" and run.committed_share() > share:
            time.sleep(run.rng.uniform(0, 0.02))
            return
        if kind == "actors" and actors_below(ray_pid):
            time.sleep(run.rng.uniform(0, _WORK_S))
            return
        time.sleep(0.005)
