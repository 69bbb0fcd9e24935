"""An encoder that only waits, so that a run shows what everything around the encoder costs. `benchmarks.scale` uses it.

It does not begin before all actors are up, and notes when each batch was done, in a file for each process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER, WAIT_S, ACTORS = "SCALE_FOLDER", "SCALE_WAIT_S", "SCALE_ACTORS"


class WaitingEncoder:
    """Waits for a batch as long as the environment says."""

    dims = (8,)
    revision = "1"
    modality = "text"

    def __init__(self, device: str) -> None:
        """Open this process's file."""
        self._folder, self._wait_s = Path(os.environ[FOLDER]), float(os.environ[WAIT_S])
        self._done = (self._folder / str(os.getpid())).open("w", buffering=1)
        self._have_begun = False

    def encode(self, inputs: Sequence[str], side: str) -> npt.NDArray[np.float32]:
        """Return B equal rows (B, 8), float32, after the wait."""
        while not self._have_begun and len(list(self._folder.iterdir())) < int(os.environ[ACTORS]):
            time.sleep(0.05)
        self._have_begun = True
        time.sleep(self._wait_s)
        self._done.write(f"{time.time()} {len(inputs)}\n")
        return np.ones((len(inputs), 8), np.float32)
