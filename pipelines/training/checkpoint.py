"""Checkpoints: all that a run needs to go on exactly, in one file that is there whole or not at all.

Order, augmentation and dropout are functions of seed and step, so a step count stands for all of them; besides it a
checkpoint holds the weights, the optimiser, and what was measured so far.
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
    """Put a checkpoint in place of the last one."""
    with atomic_path(folder / FILE) as unfinished:
        torch.save(state, unfinished)


def read_checkpoint(folder: Path, identity: str) -> dict[str, Any] | None:
    """Return the checkpoint of a folder, or None.

    Args:
        folder: Where a run writes.
        identity: What the run must agree with the checkpoint on.

    Raises:
        ConfigError: It is of another run.
    """
    state = load_checkpoint(folder)
    if state is not None and state["identity"] != identity:
        raise ConfigError(
            f"{folder / FILE} is of a run with other settings ({_differing(state['identity'], identity)}); "
            "go on with those, or give another folder"
        )
    return state


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the checkpoint of a folder, whatever run it is of, or None.

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


def _differing(theirs: str, ours: str) -> str:
    pairs = zip(theirs.split("\n"), ours.split("\n"), strict=False)
    return "; ".join(f"there {a}, here {b}" for a, b in pairs if a != b) or "more or fewer of them"
