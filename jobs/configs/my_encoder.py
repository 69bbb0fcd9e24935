"""A template of an encoder of your own: copy it, and put your model in place of the counting of words.

In a config: `[encoder]` with `class = "my_encoder:MyEncoder"`. Check it: `mlake encoders check --class …`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt


class MyEncoder:
    """Counts words.

    Attributes:
        dims: The ladder, up to the full width; one dim if the model was not trained for prefixes.
        revision: Change it whenever the same input gives another vector.
        modality: "text"; or "image", and inputs are then the bytes of files.
    """

    dims = (256,)
    revision = "1"
    modality = "text"

    def __init__(self, device: str, path: Path | None = None) -> None:
        """Load the model.

        Args:
            device: "cpu" or "cuda".
            path: What `encoder.path` names, where the config sets it: a file or folder of weights.
        """
        self.width = self.dims[-1]

    def encode(self, inputs: Sequence[str], side: str) -> npt.NDArray[np.float32]:
        """Encode a batch.

        Args:
            inputs: B texts, none of them empty.
            side: "document" or "query".

        Returns:
            (B, D), in the order given, each row from its own input only. They are scaled to unit length later.
        """
        x_BD = np.zeros((len(inputs), self.width), np.float32)
        for row, text in enumerate(inputs):
            for word in re.findall(r"\w+", text.lower()) or [text]:
                x_BD[row, zlib.crc32(word.encode()) % self.width] += 1
        return x_BD
