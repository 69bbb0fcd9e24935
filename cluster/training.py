"""Workers that train together: Ray Train makes the process group, and starts it again when it loses a worker.

Owns where workers run, how they find each other, and how what they say reaches the driver; what they do comes as a
callable. Checkpoints travel through Ray Train's storage, so that machines need share no disk but that.
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

from cluster.session import has_gpu
from schemas.errors import RunError

Report = dict[str, Any]
Tell = Callable[[Report, Path | None], bool]
"""How a worker says how it goes: a report, and the checkpoint that it has just written, if it has. Every worker calls
it equally often; it returns whether the run is to stop."""
Work = Callable[[Path, Tell], None]
"""What each worker does: given a folder of its own, which holds the last checkpoint if there is one."""

_POLL_S = 0.25
_NAME = "ray-train"


class Board:
    """Where the first worker puts its reports, and hears whether to stop. An actor."""

    def __init__(self) -> None:
        """Nothing has been said yet."""
        self._reports: list[Report] = []
        self._is_stopping = False

    def put(self, report: Report) -> bool:
        """Take a report; return whether the run is to stop."""
        self._reports.append(report)
        return self._is_stopping

    def take(self, is_stopping: bool) -> list[Report]:
        """Return what was said since the last time, and say whether the run is to stop."""
        self._is_stopping = is_stopping
        said, self._reports = self._reports, []
        return said


def train_together(work: Work, workers: int, folder: Path, show: Callable[[Report], bool], *, retries: int = 3) -> None:
    """Run `work` on several workers in one process group: nccl where they have GPUs, else gloo.

    The same call with the same folder goes on from the last checkpoint.

    Args:
        work: A function of a module, or a partial of one.
        workers: How many; each holds a GPU where the cluster has any, else a CPU.
        folder: Where checkpoints are stored: on one machine any folder, on several one that all of them reach. The last
            one's files are put there in the end.
        show: Told what the first worker reports; returns whether the run is to stop.
        retries: How often a group that lost a worker is started again, from the last checkpoint.

    Raises:
        RunError: A worker failed, and so did all retries.
    """
    board: Any = ray.remote(num_cpus=0)(Board).remote()
    trainer = _trainer(work, workers, folder, board, retries)
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(_outcome(trainer)), name="ray-train", daemon=True)
    thread.start()
    is_stopping = False
    while thread.is_alive():
        thread.join(_POLL_S)
        reports: list[Report] = ray.get(board.take.remote(is_stopping))
        for report in reports:
            is_stopping = show(report) or is_stopping
    ray.kill(board)
    (outcome,) = ended
    if isinstance(outcome, BaseException):
        raise RunError(f"the workers failed: {outcome}; the same command goes on from the last checkpoint") from outcome
    if outcome.checkpoint is not None:
        outcome.checkpoint.to_directory(str(folder))


def _trainer(work: Work, workers: int, folder: Path, board: Any, retries: int) -> TorchTrainer:
    gpu = has_gpu()
    each = {} if gpu else {"CPU": _cpus(workers)}
    return TorchTrainer(
        _work,
        train_loop_config={"work": work, "board": board},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=each or None),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=_NAME,
            storage_path=str(folder.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=retries),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )


def _outcome(trainer: TorchTrainer) -> Any:
    try:
        return trainer.fit()
    except Exception as error:  # whatever it is, it belongs to the thread that waits
        return error


def _work(config: Report) -> None:
    """Give a worker its folder, with the last checkpoint, and let it work."""
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
    """Hand a checkpoint to Ray Train; all workers come here together, the first one brings it."""
    if checkpoint is None:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(checkpoint, folder)
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _cpus(workers: int) -> float:
    free: float = ray.available_resources().get("CPU", 1.0)  # type: ignore[no-untyped-call]
    return max(0.01, min(1.0, (free - 0.1) / workers))
