"""Checkpoints: one file, written atomically, from which a run resumes exactly.

Order, augmentation and dropout are functions of seed and step, so a checkpoint holds the step instead of random
states; besides it the weights, the optimiser, and the results so far.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from pipelines.storage.atomic_files import atomic_path
from schemas.checkpoints import check_checkpoint, unreadable_checkpoint
from schemas.errors import ConfigError
from schemas.redaction import redact

FILE = "checkpoint.pt"


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint of a folder."""
    with atomic_path(folder / FILE) as unfinished:
        torch.save(state, unfinished)


def read_checkpoint(folder: Path, identity: str, defaults: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the checkpoint of a folder, or None.

    Args:
        folder: Folder of the run.
        identity: Settings of this run, one `name=value` a line; the checkpoint must be of the same.
        defaults: Default of each setting; one that the checkpoint's release did not have must stand at it.

    Raises:
        ConfigError: The checkpoint is of a run with other settings.
    """
    state = load_checkpoint(folder)
    if state is not None and (differences := _differences(state["identity"], identity, defaults)):
        raise ConfigError(
            f"{folder / FILE} is of a run with other settings ({differences}); use those settings, or another folder"
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


def _differences(theirs: str, ours: str, defaults: Mapping[str, str]) -> str:
    there, here = (
        {name: value for name, _, value in (line.partition("=") for line in text.split("\n"))}
        for text in (redact(theirs), ours)
    )
    there = {name: defaults[name] for name in here if name in defaults} | there
    there = {name: _completed(value, defaults.get(f"{name}.", "{}")) for name, value in there.items()}
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    return "; ".join(f"there {name}={there.get(name)}, here {name}={here.get(name)}" for name in names)


def _completed(value: str, defaults: str) -> str:
    """Add the settings that its release did not have, at their default, to a block within a block: a dict as text."""
    if not value.startswith("{") or defaults == "{}":
        return value
    theirs, known = ast.literal_eval(value), ast.literal_eval(defaults)
    return str({name: theirs.get(name, known.get(name)) for name in {**known, **theirs}})
