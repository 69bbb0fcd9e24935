"""A class of the user's own: `encoder.path` names a folder with `encoder.json` and the Python that it names.

    my_encoder/
        encoder.json    {"class": "model:MyEncoder", "revision": "1", "dims": [64, 256], "modality": "text"}
        model.py        class MyEncoder: __init__(self, device) and encode(self, inputs, side)

`encode` takes B texts, or the bytes of B images, and "document" or "query", and returns an array (B, D). The hash of
the folder's files is part of the space, so changed code is another space. The code runs because this user's own
config, or `--encoder-path`, names the folder; a table's path is never opened.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from pipelines.encoders.described import Described
from pipelines.encoders.model_files import OWN_FILE, hash_files, local_path
from pipelines.encoders.protocol import Family, Prepared
from pipelines.encoders.raw_inputs import RawPreparer, unpack
from pipelines.encoders.spec import EncoderSpec
from pipelines.storage.device import pick_device
from pipelines.vectors.matryoshka import unit
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, EncoderError
from schemas.records import Side

_RUNNING = threading.RLock()


class Description(Described):
    """The content of `encoder.json`."""

    class_: str = Field(alias="class", pattern=r"^\w+:\w+$")
    revision: str = Field(min_length=1)
    modality: Literal["text", "image"] = "text"


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
        folder = local_path(config.path or "")
        self._name, self._width, self._side = read_description(folder).class_, spec.ladder.width, config.side
        self._modules = _modules_of(folder.resolve(), hash_files(folder))
        made = self._modules.load(self._name)
        try:
            with self._modules.active():
                self._encoder: OwnEncoder = made(str(pick_device(config.device, "encoder.device")))
        except Exception as error:  # the user's code may raise anything
            raise EncoderError(f"{self._name} in {folder} cannot be made: {type(error).__name__}: {error}") from error

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B inputs to (B, D) float32 unit rows.

        Raises:
            EncoderError: The class returns another number of rows, or another width.
        """
        inputs: Any = [unpack(one) for one in prepared]
        with self._modules.active():
            x_BD = np.asarray(self._encoder.encode(inputs, self._side), np.float64)
        if x_BD.shape != (len(prepared), self._width):
            raise EncoderError(
                f"{self._name} returns an array of shape {x_BD.shape} for {len(prepared)} inputs; {OWN_FILE} says "
                f"{self._width} dims, so ({len(prepared)}, {self._width}) is expected"
            )
        return unit(x_BD).astype(np.float32)


class OwnFamily(Family):
    """Classes of users."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec from `encoder.json`.

        Raises:
            ConfigError: The file is not there, or wrong.
        """
        description = read_description(path)
        return description.complete(spec, description.revision, modalities=(description.modality,))

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> RawPreparer:
        """Load nothing: inputs go to the class as they are."""
        return RawPreparer(spec.modalities[0])

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> ClassEncoder:
        """Make the class."""
        return ClassEncoder(spec, config)


def read_description(folder: Path) -> Description:
    """Read `encoder.json` of a folder.

    Raises:
        ConfigError: The file is not there, or wrong.
    """
    try:
        return Description.model_validate_json((folder / OWN_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        example = '{"class": "model:MyEncoder", "revision": "1", "dims": [64, 256], "modality": "text"}'
        raise ConfigError(f"encoder.path={folder} needs a file {OWN_FILE}, such as {example}: {error}") from None


class _Modules:
    """The modules of one folder, which are in `sys.modules` only while the folder's own code runs.

    Two folders may have modules of one name.
    """

    def __init__(self, folder: Path, files: str) -> None:
        """Name the folder, and the hash of its files: changed files are other modules."""
        self._folder, self._prefix = str(folder), f"mlake_own_{files[:16]}"
        self._held: dict[str, ModuleType] = {}

    def load(self, name: str) -> Any:
        """Import `module:Class` and return the class.

        Raises:
            EncoderError: The module or the class is not there, or the import fails.
        """
        module_name, _, class_name = name.partition(":")
        file = Path(self._folder) / f"{module_name}.py"
        spec = importlib.util.spec_from_file_location(f"{self._prefix}_{module_name}", file)
        if spec is None or spec.loader is None or not file.is_file():
            raise EncoderError(f"{OWN_FILE} names {name!r}, and there is no {file}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickle look for it there
        try:
            with self.active():
                spec.loader.exec_module(module)
        except Exception as error:  # the user's code may raise anything
            del sys.modules[spec.name]
            raise EncoderError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
        if not hasattr(module, class_name):
            raise EncoderError(f"{file} has no class {class_name!r}")
        return getattr(module, class_name)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the folder's modules be imported, and hide them again."""
        with _RUNNING:
            sys.path.insert(0, self._folder)
            importlib.invalidate_caches()
            hidden = {name: sys.modules[name] for name in self._held if name in sys.modules}
            sys.modules.update(self._held)
            try:
                yield
            finally:
                sys.path.remove(self._folder)
                self._held = {name: module for name, module in sys.modules.items() if self._is_ours(module)}
                for name in self._held:
                    del sys.modules[name]
                sys.modules.update(hidden)

    def _is_ours(self, module: ModuleType) -> bool:
        file = getattr(module, "__file__", None)
        is_named_by_us = module.__name__.startswith("mlake_own_")
        return file is not None and not is_named_by_us and Path(file).is_relative_to(self._folder)


@lru_cache(maxsize=8)
def _modules_of(folder: Path, files: str) -> _Modules:
    return _Modules(folder, files)
