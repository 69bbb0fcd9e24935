"""Workers that train together: Ray Train forms the process group, and starts it again when it loses a worker.

Owns where workers run, how they find each other, and how their reports reach the driver; what they do is a callable.
Checkpoints travel through Ray Train's storage, so machines need to share no disk but that.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from cluster.placement import check_workers, has_gpu
from cluster.session import enter_folder, saying_that_it_waits
from schemas.errors import RunError
from schemas.printable import counted

Report = dict[str, Any]
Tell = Callable[[Report, Path | None], bool]
"""Sends a report, and the checkpoint that the worker has just written, if any. Every worker must call it equally often.
Returns whether the run should stop."""
Work = Callable[[Path, Tell], None]
"""The work of each worker. It is given a folder of its own, which holds the last checkpoint if there is one."""

_POLL_S = 0.25
_NAME = "ray-train"


class ReportBoard:
    """An actor that carries the first worker's reports to the driver, and the request to stop back."""

    def __init__(self) -> None:
        """Hold no reports."""
        self._reports: list[Report] = []
        self._is_stopping = False

    def put(self, report: Report) -> bool:
        """Add a report; return whether the run should stop."""
        self._reports.append(report)
        return self._is_stopping

    def take(self, is_stopping: bool) -> list[Report]:
        """Return the reports since the last call; from now on `put` returns `is_stopping`."""
        self._is_stopping = is_stopping
        taken, self._reports = self._reports, []
        return taken


def train_together(work: Work, workers: int, folder: Path, show: Callable[[Report], bool], *, retries: int = 3) -> None:
    """Run `work` on several workers in one process group: nccl where they have GPUs, else gloo.

    The same call with the same folder resumes from the last checkpoint.

    Args:
        work: A function of a module, or a partial of one.
        workers: How many; each holds a GPU where the cluster has any, else a CPU.
        folder: Where checkpoints are stored: on one machine any folder, on several one that all of them reach. At the
            end it holds the files of the last checkpoint.
        show: Called with each report of the first worker; returns whether the run should stop.
        retries: How often a group that lost a worker is started again, from the last checkpoint.

    Raises:
        ConfigError: The local cluster can never hold so many workers.
        RunError: A worker failed, and so did all retries.
    """
    check_workers(workers)
    board: Any = ray.remote(num_cpus=0)(ReportBoard).remote()
    trainer = _trainer(work, workers, folder, board, retries)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(_fit(trainer)), name="ray-train", daemon=True)
    thread.start()
    is_stopping = False
    with saying_that_it_waits(f"the first report of {counted(workers, 'worker')}") as is_heard:
        while thread.is_alive():
            thread.join(_POLL_S)
            reports: list[Report] = ray.get(board.take.remote(is_stopping))
            for report in reports:
                is_heard.set()
                is_stopping = show(report) or is_stopping
    ray.kill(board)
    (result,) = results
    if isinstance(result, BaseException):
        raise RunError(f"the workers failed: {result}; the same command resumes from the last checkpoint") from result
    if result.checkpoint is not None:
        result.checkpoint.to_directory(str(folder))


def _trainer(work: Work, workers: int, folder: Path, board: Any, retries: int) -> TorchTrainer:
    gpu = has_gpu()
    each = {} if gpu else {"CPU": _cpus_per_worker(workers)}
    return TorchTrainer(
        _run_worker,
        train_loop_config={"work": work, "board": board, "folder": str(Path.cwd())},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=each or None),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=_NAME,
            storage_path=str(folder.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=retries),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )


def _fit(trainer: TorchTrainer) -> Any:
    """Return the result of the training, or what it raised."""
    try:
        return trainer.fit()
    except Exception as error:  # raised again in the thread that waits
        return error


def _run_worker(config: Report) -> None:
    """Run the work of one worker in a folder of its own that holds the last checkpoint."""
    enter_folder(config["folder"])
    board = config["board"]
    is_first = ray.train.get_context().get_world_rank() == 0

    def tell(report: Report, checkpoint: Path | None) -> bool:
        is_stopping = bool(ray.get(board.put.remote(report))) if is_first else False
        if checkpoint is not None:
            _store(checkpoint if is_first else None)
        return is_stopping

    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        last = ray.train.get_checkpoint()
        if last is not None:
            last.to_directory(scratch)
        config["work"](Path(scratch), tell)


def _store(checkpoint: Path | None) -> None:
    """Pass a checkpoint to Ray Train. All workers call this together; only the first one has a checkpoint."""
    if checkpoint is None:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(checkpoint, folder)
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _cpus_per_worker(workers: int) -> float:
    free: float = ray.available_resources().get("CPU", 1.0)  # type: ignore[no-untyped-call]
    return max(0.01, min(1.0, (free - 0.1) / workers))
