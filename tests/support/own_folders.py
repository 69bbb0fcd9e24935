"""A folder with a class of the user's own, which counts the letters a to h of a text."""

from __future__ import annotations

import json
from pathlib import Path

from schemas.config import EncoderConfig

CODE = """
import numpy as np
from counting import letters

class Letters:
    def __init__(self, device):
        self.device = device

    def encode(self, inputs, side):
        return np.array([letters(text) for text in inputs]) + (side == "query") * 0.0
"""
NEIGHBOUR = "def letters(text):\n    return [1 + text.lower().count(letter) for letter in 'abcdefgh']\n"


def write_own(folder: Path, code: str = CODE, **facts: object) -> EncoderConfig:
    """Write the folder, whose description says `facts`; return a config that names it."""
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(code)
    (folder / "counting.py").write_text(NEIGHBOUR)
    described = {"class": "model:Letters", "revision": "1", "dims": [4, 8], "modality": "text"}
    (folder / "encoder.json").write_text(json.dumps(described | facts))
    return EncoderConfig(name="own", path=str(folder), device="cpu")
