"""A class of the user's own in a folder with a description: `encoder.path` names it.

    my_encoder/
        encoder.json    {"class": "model:MyEncoder", "revision": "1", "dims": [64, 256], "modality": "text"}
        model.py        class MyEncoder: __init__(self, device) and encode(self, inputs, side)

The hash of the folder's files is part of the space, so changed code is another space. The code runs because this user's
own config, or `--encoder-path`, names the folder; a table's path is never opened. Owns no call of the class.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field, ValidationError

from pipelines.encoders.described import OwnDescription
from pipelines.encoders.model_files import OWN_FILE, hash_files
from schemas.errors import ConfigError, EncoderError

_RUNNING = threading.RLock()


class FolderDescription(OwnDescription):
    """The content of `encoder.json`."""

    class_: str = Field(alias="class", pattern=r"^\w+:\w+$")


class FolderCode:
    """The class of a folder.

    Attributes:
        name: `module:Class`.
        where: The folder, for messages.
    """

    def __init__(self, folder: Path) -> None:
        """Read the folder's description; nothing is imported.

        Raises:
            ConfigError: It is not there, or wrong.
        """
        self._description = _read_description(folder)
        self.name, self.where = self._description.class_, str(folder)
        self._modules = _modules_of(folder.resolve(), hash_files(folder))

    def description(self) -> OwnDescription:
        """Return what `encoder.json` says."""
        return self._description

    def make(self, device: str) -> Any:
        """Import the class, and make one for a device.

        Raises:
            EncoderError: The module or the class is not there, or the import fails.
        """
        made = self._modules.load(self.name)
        with self._modules.active():
            return made(device)

    def active(self) -> AbstractContextManager[None]:
        """Let the folder's modules be imported while its code runs."""
        return self._modules.active()


def _read_description(folder: Path) -> FolderDescription:
    try:
        return FolderDescription.model_validate_json((folder / OWN_FILE).read_bytes())
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
                there = sys.modules.copy()  # other threads may import meanwhile
                self._held = {name: module for name, module in there.items() if self._is_ours(module)}
                for name in self._held:
                    sys.modules.pop(name, None)
                sys.modules.update(hidden)

    def _is_ours(self, module: object) -> bool:
        if not isinstance(module, ModuleType):  # None forbids an import, and libraries put objects of their own there
            return False
        file, is_named_by_us = getattr(module, "__file__", None), module.__name__.startswith("mlake_own_")
        return file is not None and not is_named_by_us and file.startswith(f"{self._folder}{os.sep}")


@lru_cache(maxsize=8)
def _modules_of(folder: Path, files: str) -> _Modules:
    return _Modules(folder, files)
