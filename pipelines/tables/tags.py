"""Lance tags of a table: the names by which other tools find a version, and which keep it from being expired."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lance import LanceDataset

from pipelines.storage.retry import retry_transient
from pipelines.tables.opening import open_dataset
from schemas.config import StorageConfig
from schemas.errors import TableNotFound, reason_of

_TRIES = 20
_MOVED = ("Ref conflict error", "Ref not found error", "_refs/tags")
_EXPIRED = "Version not found"
_Seen = TypeVar("_Seen")


def read_tags(uri: str, storage: StorageConfig) -> dict[str, int]:
    """Return the tags of a table with their versions.

    Raises:
        TableNotFound: There is no table.
    """
    listed = _look(uri, storage, lambda dataset: dataset.tags.list())
    return {name: int(tag["version"]) for name, tag in listed.items()}


def set_tag(uri: str, name: str, version: int, storage: StorageConfig) -> None:
    """Point a tag at a version, whether it is there already or not.

    Raises:
        TableNotFound: There is no table, or the version was removed.
    """

    def point(dataset: LanceDataset) -> None:
        there = dataset.tags.list().get(name)
        if there is None:
            dataset.tags.create(name, version)
        elif there["version"] != version:
            dataset.tags.update(name, version)

    _look(uri, storage, point)


def remove_tag(uri: str, name: str, storage: StorageConfig) -> None:
    """Remove a tag, if it is there."""

    def remove(dataset: LanceDataset) -> None:
        if name in dataset.tags.list():
            dataset.tags.delete(name)

    _look(uri, storage, remove)


def _look(uri: str, storage: StorageConfig, act: Callable[[LanceDataset], _Seen]) -> _Seen:
    """Read or change tags; look again where another writer made or removed one in between."""

    def look(tries: int = _TRIES) -> _Seen:
        try:
            return act(open_dataset(uri, storage))
        except ValueError as error:
            if _EXPIRED in str(error):
                raise TableNotFound(f"{uri}: the version was removed: {reason_of(error)}") from None
            if tries and any(sign in str(error) for sign in _MOVED):
                return look(tries - 1)
            raise

    return retry_transient(uri, look)
