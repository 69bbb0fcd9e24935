"""Checkpoints: one file, written atomically, from which a run resumes exactly.

Order, augmentation and dropout are functions of seed and step, so a checkpoint holds the step instead of random
states; besides it the weights, the optimiser, and the results so far.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from pipelines.storage.atomic_files import atomic_path
from schemas.checkpoints import check_checkpoint, unreadable_checkpoint
from schemas.errors import ConfigError

FILE = "checkpoint.pt"


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint of a folder."""
    with atomic_path(folder / FILE) as unfinished:
        torch.save(state, unfinished)


def read_checkpoint(folder: Path, identity: str) -> dict[str, Any] | None:
    """Return the checkpoint of a folder, or None.

    Args:
        folder: Folder of the run.
        identity: Settings of this run, one a line; the checkpoint must be of the same.

    Raises:
        ConfigError: The checkpoint is of a run with other settings.
    """
    state = load_checkpoint(folder)
    if state is not None and state["identity"] != identity:
        raise ConfigError(
            f"{folder / FILE} is of a run with other settings ({_differences(state['identity'], identity)}); "
            "use those settings, or another folder"
        )
    return state


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the checkpoint of a folder, of any run, or None.

    Raises:
        ConfigError: It is of a newer format, or damaged.
    """
    if not (folder / FILE).exists():
        return None
    path = folder / FILE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise unreadable_checkpoint(str(path), error) from None
    check_checkpoint(state, str(path))
    return state


def _differences(theirs: str, ours: str) -> str:
    pairs = zip(theirs.split("\n"), ours.split("\n"), strict=False)
    return "; ".join(f"there {a}, here {b}" for a, b in pairs if a != b) or "more or fewer settings"
