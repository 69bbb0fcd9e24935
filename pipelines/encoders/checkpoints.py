"""Folders of models trained here, read and written: heads on frozen encoders, and whole models.

A head is `head.json` and `head.safetensors`, which holds its layers as `<modality>.<i>.weight` (out, in) and
`<modality>.<i>.bias` (out,), with GELU between them; `split.json` says which rows it did not learn from. A whole model
is `model.json` and `model.safetensors`, the state dict of its training task; a model of texts has its tokeniser beside
them. `encoder.path` names either folder. The fields of the JSON files are in `schemas.checkpoints`.

Shapes: B rows, D width of the head's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from pipelines.encoders.inference import apply_steps
from pipelines.encoders.model_files import SPLIT_FILE
from pipelines.encoders.towers import ImageTower, TextTower
from schemas.checkpoints import HeadFile, ModelFile
from schemas.errors import EncoderError
from schemas.records import Modality
from schemas.splits import Split

_HEAD_JSON, _HEAD_TENSORS = "head.json", "head.safetensors"
_MODEL_JSON, _MODEL_TENSORS = "model.json", "model.safetensors"
# What the training tasks call their towers: the prefix of their weights' names, by modality.
_TOWERS: dict[str, dict[Modality, str]] = {
    "classify": {"image": "tower"},
    "pairs": {"image": "image", "text": "text"},
    "mlm": {"text": "text"},
}


@dataclass(frozen=True)
class Layer:
    """One linear layer: weight (out, in), bias (out,) or none."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None


def save_head(
    folder: str | Path, head: HeadFile, layers: Mapping[Modality, Sequence[Layer]], split: Split | None = None
) -> None:
    """Write a head.

    Args:
        folder: Made if it is not there.
        head: The content of `head.json`; `describe_tower` makes its towers.
        layers: Per modality, from the frozen encoder's output to the head's.
        split: Which rows it did not learn from.

    Raises:
        EncoderError: Modalities or widths do not fit together.
    """
    if layers.keys() != head.towers.keys():
        raise EncoderError(f"the head has towers {sorted(head.towers)}, but layers for {sorted(layers)}")
    for modality, stack in layers.items():
        if stack[-1].weight.shape[0] != head.dims[-1]:
            raise EncoderError(
                f"the {modality} head gives {stack[-1].weight.shape[0]} dims, but the ladder ends at {head.dims[-1]}"
            )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for modality, stack in layers.items():
        for i, layer in enumerate(stack):
            tensors[f"{modality}.{i}.weight"] = layer.weight.detach().cpu().contiguous()
            if layer.bias is not None:
                tensors[f"{modality}.{i}.bias"] = layer.bias.detach().cpu().contiguous()
    save_file(tensors, folder / _HEAD_TENSORS)
    (folder / _HEAD_JSON).write_text(head.to_json(indent=2) + "\n")
    if split is not None:
        (folder / SPLIT_FILE).write_text(split.to_json(indent=2) + "\n")


def read_head(folder: Path) -> HeadFile:
    """Read `head.json`.

    Raises:
        ConfigError: It is not there, or is not a valid one.
    """
    return HeadFile.from_file(folder / _HEAD_JSON)


def read_split(folder: Path) -> Split | None:
    """Return which rows a head did not learn from; None for a head that does not say it, as in the first release.

    Raises:
        ConfigError: The record is of a newer format, or malformed.
    """
    return Split.from_file(folder / SPLIT_FILE) if (folder / SPLIT_FILE).exists() else None


def read_layers(folder: Path, modality: Modality) -> list[Layer]:
    """Read the layers of a head for one modality."""
    tensors = load_file(folder / _HEAD_TENSORS)
    count = sum(name.startswith(f"{modality}.") and name.endswith(".weight") for name in tensors)
    return [Layer(tensors[f"{modality}.{i}.weight"], tensors.get(f"{modality}.{i}.bias")) for i in range(count)]


@torch.inference_mode()
def apply_layers(x_BD: torch.Tensor, layers: Sequence[Layer]) -> npt.NDArray[np.float32]:
    """Run a head's layers on the frozen encoder's output: (B, D) float32 unit rows."""
    for i, layer in enumerate(layers):
        x_BD = functional.linear(functional.gelu(x_BD) if i else x_BD, layer.weight, layer.bias)
    return apply_steps(x_BD, ("l2",))


def save_model(folder: Path, file: ModelFile, state: Mapping[str, torch.Tensor]) -> None:
    """Write a whole model, without its tokeniser.

    Args:
        folder: Made if it is not there.
        file: The content of `model.json`.
        state: State dict of the training task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / _MODEL_TENSORS)
    (folder / _MODEL_JSON).write_text(file.to_json(indent=2) + "\n")


def read_model_file(folder: Path) -> ModelFile:
    """Read `model.json`.

    Raises:
        ConfigError: It is not there, or is not a valid one.
    """
    return ModelFile.from_file(folder / _MODEL_JSON)


def load_towers(folder: Path) -> dict[Modality, ImageTower | TextTower]:
    """Load the towers of a whole model onto the CPU, in evaluation mode; its classifier heads are left out.

    Raises:
        ConfigError: The folder holds no whole model.
        DependencyMissing: transformers is not installed.
    """
    file = read_model_file(folder)
    tensors = load_file(folder / _MODEL_TENSORS)
    towers: dict[Modality, ImageTower | TextTower] = {}
    for modality, name in _TOWERS[file.kind].items():
        tower = ImageTower(file.model) if modality == "image" else TextTower(file.model, file.vocabulary)
        prefix = f"{name}."
        tower.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        towers[modality] = tower.eval()
    return towers
