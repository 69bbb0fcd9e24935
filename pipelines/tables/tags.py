"""Lance tags of a table: the names by which other tools find a version, and which keep it from being expired."""

from __future__ import annotations

from pipelines.storage.retry import retry_transient
from pipelines.tables.commits import open_dataset
from schemas.config import StorageConfig


def read_tags(uri: str, storage: StorageConfig) -> dict[str, int]:
    """Return the tags of a table with their versions.

    Raises:
        TableNotFound: There is no table.
    """
    dataset = open_dataset(uri, storage)
    listed = retry_transient(uri, dataset.tags.list)
    return {name: int(tag["version"]) for name, tag in listed.items()}


def set_tag(uri: str, name: str, version: int, storage: StorageConfig) -> None:
    """Point a tag at a version, whether it is there already or not."""

    def point() -> None:
        dataset = open_dataset(uri, storage)
        there = dataset.tags.list().get(name)
        if there is None:
            dataset.tags.create(name, version)
        elif there["version"] != version:
            dataset.tags.update(name, version)

    retry_transient(uri, point)


def remove_tag(uri: str, name: str, storage: StorageConfig) -> None:
    """Remove a tag, if it is there."""

    def remove() -> None:
        dataset = open_dataset(uri, storage)
        if name in dataset.tags.list():
            dataset.tags.delete(name)

    retry_transient(uri, remove)
