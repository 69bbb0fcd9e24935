"""A class of the user's own that a config names, as in `class = "my_pkg.my_module:MyEncoder"`, or a package offers.

A package offers one by an entry point of the group `matryoshka_lake.encoders`; its name is then a name of an encoder.
The class states its facts as attributes: `dims`, `revision`, `modality`, `any_from`, `licence`. Its space covers these,
the Python files of its package that its module imports, and the files at `encoder.path`.

The class is imported only because a config, or `--encoder-class`, of this user names it; what a table says of it is
never imported. Owns no call of the class.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import site
import sys
import sysconfig
import threading
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from pipelines.encoders.described import OwnDescription
from pipelines.encoders.model_files import hash_files, local_path
from schemas.config import EncoderConfig
from schemas.errors import ConfigError, EncoderError

GROUP = "matryoshka_lake.encoders"
"""The group of entry points by which packages offer encoders."""
_FACTS = ("dims", "any_from", "revision", "modality", "licence")
_IMPORTING = threading.Lock()


@cache
def offered() -> dict[str, EntryPoint]:
    """Return what installed packages offer, by the name of the encoder; nothing is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def class_name(config: EncoderConfig) -> str | None:
    """Return `module:Class` of the class that a config names, itself or by the name of an offered one; else None."""
    if config.class_ is not None:
        return config.class_
    point = offered().get(config.name)
    return None if point is None else f"{point.module}:{point.attr}"


class ClassCode:
    """A class that can be imported.

    Attributes:
        name: `module:Class`.
        where: Its module's file, for messages.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Import the class that a config names.

        Raises:
            EncoderError: The module or the class is not there, the import fails, or a file has changed since.
        """
        self.name = class_name(config) or ""
        self._path = config.path
        module_name, _, class_ = self.name.partition(":")
        module = _import(module_name)
        self.where = module.__file__ or module_name
        if not isinstance(getattr(module, class_, None), type):
            raise EncoderError(f"encoder.class={self.name}: {self.where} has no class {class_!r}")
        self._class: Any = getattr(module, class_)
        self._source = _hash(self.name, self.where)
        if self._source != _first_hash(self.name, self.where):
            raise EncoderError(f"{self.where} has changed since this process imported it; start it again")

    @property
    def weights(self) -> str:
        """The hash of its Python, and of the files at `encoder.path`."""
        files = "" if self._path is None else hash_files(local_path(self._path), everything=True)
        return hashlib.sha256(f"{self._source}\n{files}".encode()).hexdigest()

    def description(self) -> OwnDescription:
        """Return what its attributes say.

        Raises:
            ConfigError: They do not describe an encoder.
        """
        said = {name: getattr(self._class, name) for name in _FACTS if hasattr(self._class, name)}
        try:
            return OwnDescription.model_validate(said)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(
                f"encoder.class={self.name}: the attributes of the class do not describe an encoder: {problems}; write "
                'in the class, for example: dims = (64, 256); revision = "1"; modality = "text"'
            ) from None

    def make(self, device: str) -> Any:
        """Make one for a device; it gets `encoder.path` too, where that is set."""
        return self._class(device) if self._path is None else self._class(device, local_path(self._path))

    def active(self) -> nullcontext[None]:
        """Change nothing: its modules are importable by their own names."""
        return nullcontext()


def sources(module_name: str, file: Path) -> list[Path]:
    """Return the files of a module and of those that it imports, directly or not, from the same top package.

    Args:
        module_name: Its full name.
        file: Its file; its name and place must agree.
    """
    top, *inner = module_name.split(".")
    if file.suffix != ".py" or not (inner or file.name == "__init__.py"):
        return [file]
    root = file.parents[len(inner) - (file.name != "__init__.py")].parent
    found: dict[str, Path] = {}
    todo = [module_name]
    while todo:
        name = todo.pop()
        base = root.joinpath(*name.split("."))
        place = next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), None)
        if name in found or place is None or name.partition(".")[0] != top:
            continue
        found[name] = place
        package = name if place.name == "__init__.py" else name.rpartition(".")[0]
        todo += [*_imported(place, package), name.rpartition(".")[0]]
    return [found[name] for name in sorted(found)]


def _imported(file: Path, package: str) -> Iterator[str]:
    """Yield the full names that the imports of a file may mean; some are no modules."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules_to_send(config: EncoderConfig) -> tuple[str, ...]:
    """Return the package or file of a config's class that the machines of a cluster need a copy of.

    What is installed here as a package must be installed there as well, and is not sent.
    """
    name = class_name(config)
    return () if name is None else tuple(map(str, class_places(name)))


def class_places(name: str) -> tuple[Path, ...]:
    """Return the top package or file of a class, `module:Class`, unless it is installed; nothing is imported.

    Raises:
        EncoderError: There is none here.
    """
    top = name.partition(":")[0].partition(".")[0]
    with _IMPORTING, _folder_last(str(Path.cwd())) as folder:
        found = importlib.util.find_spec(top)
    if found is None or not (found.submodule_search_locations or found.has_location):
        raise EncoderError(
            f"encoder.class={name}: there is no package or file {top!r} among the installed packages and in {folder}"
        )
    places = [Path(place).resolve() for place in found.submodule_search_locations or [found.origin or ""]]
    installed = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib")} | {
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
    if any(place.is_relative_to(Path(folder).resolve()) for place in places for folder in installed):
        return ()
    return tuple(places)


def named_classes(words: Sequence[str], configs: Sequence[Path]) -> Iterator[str]:
    """Yield the encoders' classes that a command names: in its configs, its overrides and its options."""
    for file in configs:
        if file.suffix == ".toml":
            try:
                yield from _named(tomllib.loads(file.read_text()))
            except (OSError, ValueError):
                continue  # the job says what is wrong with it
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, _, value = word.partition("=")
        if option in ("encoder.class", "--encoder-class"):
            yield value or following


def _named(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        encoder = value.get("encoder")
        if isinstance(encoder, dict) and isinstance(encoder.get("class"), str):
            yield encoder["class"]
        for inner in value.values():
            yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)


def _import(name: str) -> ModuleType:
    with _IMPORTING, _folder_last(str(Path.cwd())) as folder:
        try:
            return importlib.import_module(name)
        except Exception as error:  # the user's code may raise anything
            raise EncoderError(
                f"encoder.class: {name} cannot be imported: {type(error).__name__}: {error}; a class is looked for "
                f"among the installed packages and in {folder}; of a cluster's machines, each gets a copy of its top "
                "package or file, and no other file"
            ) from error


@contextmanager
def _folder_last(folder: str) -> Iterator[str]:
    """Let modules be imported from a folder as well: last, so that a copy that was sent to this machine wins."""
    importlib.invalidate_caches()
    sys.path.append(folder)
    try:
        yield folder
    finally:
        sys.path.reverse()
        sys.path.remove(folder)
        sys.path.reverse()


def _hash(name: str, file: str) -> str:
    total = hashlib.sha256(f"{name}\n".encode())
    for source in sources(name.partition(":")[0], Path(file)):
        total.update(f"{hash_files(source)}\n".encode())
    return total.hexdigest()


_first_hash = cache(_hash)
