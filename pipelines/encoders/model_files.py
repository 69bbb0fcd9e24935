"""A model's files: finding, checking and hashing them.

Downloads nothing: the libraries do, at the pinned revision.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from pipelines.encoders.spec import EncoderSpec
from schemas.config import EncoderConfig
from schemas.errors import ConfigError, DependencyMissing, EncoderError

# Files that can change a vector. Model cards and images cannot.
SPLIT_FILE = "split.json"
"""Says which rows a head did not learn from. It changes no vector, so it is not part of the hash."""
OWN_FILE = "encoder.json"
"""Describes a class of the user's own. All files beside it may be its weights or its code."""
HUB = "hf://"
"""Begins the address of a repository of the Hugging Face hub."""
_MODEL_FILES = {".bin", ".jinja", ".json", ".model", ".npz", ".onnx", ".pt", ".pth", ".py", ".safetensors", ".txt"}


class ModelSource(NamedTuple):
    """The arguments of `from_pretrained`: a local folder, or a repository and its pinned revision."""

    where: str
    revision: str | None


def model_source(spec: EncoderSpec, config: EncoderConfig) -> ModelSource:
    """Return where a Hugging Face model is loaded from.

    Raises:
        ConfigError: `encoder.path` does not exist.
    """
    if config.path is not None:
        return ModelSource(str(local_path(config.path)), None)
    return ModelSource(spec.repo, spec.revision)


def local_path(path: str) -> Path:
    """Return an existing local path; a repository of the hub is downloaded into the hub's cache first.

    Raises:
        ConfigError: Nothing is there.
    """
    if path.startswith(HUB):
        return _from_hub(path)
    found = Path(path).expanduser()
    if not found.exists():
        raise ConfigError(f"encoder.path={path}: nothing is there; give a folder or file with the model's weights")
    return found


def _from_hub(address: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, commit = address.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ConfigError(
            f"encoder.path={address}: a model of the hub is named {HUB}OWNER/NAME@COMMIT, with the 40 hex digits of a "
            "commit, because a branch can move"
        )
    try:
        return Path(snapshot_download(repo, revision=commit))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        said = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"encoder.path={address} is not in the hub's cache and cannot be downloaded: {said}"
        ) from None


def check_package(spec: EncoderSpec) -> None:
    """Check that the package that carries a model is installed at the pinned version.

    Raises:
        DependencyMissing: It is not installed.
        EncoderError: Another version is installed: its weights may differ, so its vectors would be of another space.
    """
    try:
        installed = version(spec.package)
    except PackageNotFoundError:
        raise DependencyMissing(
            f"{spec.name} needs the package {spec.package}; run: pip install {spec.package}=={spec.revision}"
        ) from None
    if installed != spec.revision:
        raise EncoderError(
            f"{spec.name} is pinned to {spec.package} {spec.revision}, but {installed} is installed; "
            f"run: pip install {spec.package}=={spec.revision}"
        )


def hash_files(path: str | Path, *, everything: bool = False) -> str:
    """Return the sha256 over the names and contents of a model's files; of a single file, over its content alone.

    Args:
        path: Its folder or file.
        everything: Of a folder, cover files of any kind, as where only the user's code knows which matter.
    """
    root = Path(path)
    everything |= (root / OWN_FILE).is_file()
    files = [root] if root.is_file() else sorted(f for f in root.rglob("*") if _is_part(f, everything=everything))
    total = hashlib.sha256()
    for file in files:
        name = file.relative_to(root).as_posix() if root.is_dir() else ""
        stat = file.stat()
        total.update(f"{name}\0{_hash_file(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return total.hexdigest()


def _is_part(file: Path, *, everything: bool) -> bool:
    if everything:
        return file.is_file() and "__pycache__" not in file.parts
    return file.suffix in _MODEL_FILES and file.name != SPLIT_FILE


@lru_cache(maxsize=256)
def _hash_file(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
