"""ONNX export of torch models, for faster inference on a CPU: exported once, cached per user, run by onnxruntime.

Owns the export and its cache; the model and the meaning of its output belong to the family. Without the libraries
(`pip install 'matryoshka-lake[onnx]'`) the families run in torch, with the same results.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch

from pipelines.storage.atomic_files import atomic_path

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def is_available() -> bool:
    """Return whether the libraries to export and to run are installed."""
    return all(find_spec(library) is not None for library in ("onnx", "onnxscript", "onnxruntime"))


class OnnxModel:
    """A model of one input and one output, run by onnxruntime with as many threads as torch has."""

    def __init__(self, path: Path) -> None:
        """Open an exported model."""
        from onnxruntime import InferenceSession, SessionOptions  # optional, and slow to import

        options = SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session: InferenceSession = InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Run a batch of any size."""
        return cast(npt.NDArray[np.float32], self._session.run(None, {self._input: batch})[0])


def export_once(module: torch.nn.Module, example: torch.Tensor, weights_sha256: str) -> Path:
    """Return the ONNX file of a module; export it the first time.

    Args:
        module: In evaluation mode; takes one tensor whose first dim is the batch, and returns one.
        example: An input of two or more rows.
        weights_sha256: Hash of the weights; part of the file's name, with the class's name and torch's version.
    """
    key = f"{type(module).__qualname__} {tuple(example.shape[1:])} {example.dtype} {torch.__version__} {weights_sha256}"
    path = cache_dir() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.onnx"
    if not path.exists():
        with _silenced():
            program = torch.onnx.export(
                module, (example,), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
        with atomic_path(path) as unfinished:  # several processes may export at once
            cast(torch.onnx.ONNXProgram, program).save(unfinished, external_data=False)
    return path


def cache_dir() -> Path:
    """Return the folder of exported models: `$XDG_CACHE_HOME/matryoshka-lake/onnx`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matryoshka-lake" / "onnx"


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence the exporter's log and warnings; its failures are raised as errors."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
