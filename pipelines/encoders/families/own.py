"""Classes of users: from a folder (`encoder.path`), by name (`encoder.class`), or offered by an installed package.

`encode` takes B texts, or the bytes of B images, and "document" or "query", and returns an array (B, D). Where the code
comes from is in `own_folder.py` and `own_class.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipelines.encoders.described import OwnDescription
from pipelines.encoders.model_files import local_path
from pipelines.encoders.own_class import ClassCode, class_name
from pipelines.encoders.own_folder import FolderCode
from pipelines.encoders.protocol import Family, Prepared
from pipelines.encoders.raw_inputs import RawPreparer, unpack
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from pipelines.vectors.matryoshka import unit
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import EncoderError, LakeError
from schemas.records import Side


class OwnCode(Protocol):
    """Where a class comes from."""

    name: str
    where: str

    def description(self) -> OwnDescription:
        """Return the facts about it."""
        ...

    def make(self, device: str) -> OwnEncoder:
        """Make one for a device."""
        ...

    def active(self) -> AbstractContextManager[None]:
        """Let its modules be imported while it runs."""
        ...


class OwnEncoder(Protocol):
    """What the user's class has."""

    def encode(self, inputs: Sequence[str] | Sequence[bytes], side: Side) -> Any:
        """Encode B inputs to (B, D) numbers, in the order given."""
        ...


class ClassEncoder:
    """Calls the user's class, and checks what it returns."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Import the class and make one.

        Raises:
            ConfigError: The description is wrong.
            EncoderError: The module or the class is not there, or it cannot be made.
        """
        self._code, self._width, self._side = code_of(config), spec.ladder.width, config.side
        device = str(pick_device(config.device, "encoder.device"))
        try:
            self._encoder = self._code.make(device)
        except LakeError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise EncoderError(
                f"{self._code.name} in {self._code.where} cannot be made: {type(error).__name__}: {error}"
            ) from error

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B inputs to (B, D) float32 unit rows.

        Raises:
            EncoderError: The class returns another number of rows, or another width.
        """
        inputs: Any = [unpack(one) for one in prepared]
        with self._code.active():
            x_BD = np.asarray(self._encoder.encode(inputs, self._side), np.float64)
        if x_BD.shape != (len(prepared), self._width):
            raise EncoderError(
                f"{self._code.name} returns an array of shape {x_BD.shape} for {len(prepared)} inputs; its description "
                f"says {self._width} dims, so ({len(prepared)}, {self._width}) is expected"
            )
        return unit(x_BD).astype(np.float32)


class OwnFamily(Family):
    """Classes of users."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec from the `encoder.json` of a folder.

        Raises:
            ConfigError: The file is not there, or wrong.
        """
        return describe_code(spec, FolderCode(path))

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> RawPreparer:
        """Load nothing: inputs go to the class as they are."""
        return RawPreparer(spec.modalities[0])

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> ClassEncoder:
        """Make the class."""
        return ClassEncoder(spec, config)


def code_of(config: EncoderConfig) -> OwnCode:
    """Return the code that a config names.

    Raises:
        ConfigError: The folder's description is wrong.
        EncoderError: The class cannot be imported.
    """
    return FolderCode(local_path(config.path or "")) if class_name(config) is None else ClassCode(config)


def describe_code(spec: EncoderSpec, code: OwnCode) -> EncoderSpec:
    """Complete a spec by what a class says of itself.

    Raises:
        ConfigError: It does not describe an encoder.
    """
    description = code.description()
    return description.complete(spec, description.revision, modalities=(description.modality,))
