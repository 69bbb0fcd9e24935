"""Open a Lance dataset at a version, at a tag or at a time, and say what is there instead where there is none."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import lance
from lance import LanceDataset

from pipelines.storage.addresses import companion_stem
from pipelines.storage.s3 import lance_access
from schemas.config import StorageConfig
from schemas.errors import InputError, TableNotFound, nearest


def open_dataset(uri: str, storage: StorageConfig, version: int | str | dt.datetime | None = None) -> LanceDataset:
    """Open a dataset at a version number, at a tag or at a time; None is the newest version.

    Raises:
        InputError: `version` is neither a number, a tag nor a time.
        TableNotFound: There is nothing at that address, or it has no such version.
    """
    if version is not None and (isinstance(version, bool) or not isinstance(version, (int, str, dt.datetime))):
        raise InputError(f"version {version!r} is none; pass a version's number, a tag, or a datetime")
    if "://" not in uri and (file := _file_on_the_way(Path(uri))):
        raise TableNotFound(f"{file} is a file; a table is a folder that `mlake embed CONFIG` makes, in a folder")
    try:
        access = lance_access(uri, storage)
        address = None if "table_id" in access else uri
        if isinstance(version, dt.datetime):
            return lance.dataset(address, asof=version.astimezone().replace(tzinfo=None), **access)
        return lance.dataset(address, version=version, **access)
    except (ValueError, OSError) as error:
        if "not found" in str(error).lower() or "earlier than the first version" in str(error):
            if version is not None:
                newest = open_dataset(uri, storage).version
                raise TableNotFound(f"{uri} has no version {version!r}; its newest is {newest}") from None
            near = nearest(Path(uri).name, _tables_beside(uri))
            raise TableNotFound(f"no table at {uri}{near}; `mlake embed CONFIG` makes one") from None
        raise


def _tables_beside(uri: str) -> list[str]:
    """Return the names of the tables in the folder of a local address, without their companions."""
    if "://" in uri:
        return []
    return [path.name for path in Path(uri).parent.glob("*.lance") if companion_stem(str(path)) is None]


def _file_on_the_way(path: Path) -> Path | None:
    """Return the part of a path that is there and is no folder, where a table cannot be."""
    there = next((part for part in (path, *path.parents) if part.exists()), path)
    return there if there.exists() and not there.is_dir() else None
