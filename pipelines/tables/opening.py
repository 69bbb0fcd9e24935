"""Open a Lance dataset at a version, at a tag or at a time, and say what is there instead where there is none."""

from __future__ import annotations

import datetime as dt
import errno
import os
import reprlib
from pathlib import Path
from typing import Any

import lance
import numpy as np
from lance import LanceDataset

from pipelines.storage.addresses import absolute, companion_stem
from pipelines.storage.s3 import lance_access
from schemas.config import StorageConfig, TrustConfig, check_given
from schemas.errors import InputError, TableError, TableNotFound, nearest, reason_of

Version = int | str | dt.datetime
_TICK = dt.timedelta(microseconds=1)
_ADDRESSES = "pass a local path, or s3://BUCKET/NAME.lance"
# What Lance says where there is no table, no such version or tag, or a text that no tag can be.
_MISSING = ("not found", "earlier than the first version", "ref is invalid", "file name too long")


def read_address(address: object, storage: object = StorageConfig(), trust: object = TrustConfig()) -> str:
    """Return the absolute address of a table, from a text or a `Path`; check what it is to be opened with.

    Raises:
        InputError: It is neither, or empty, or holds NUL.
        ConfigError: `storage` is no `StorageConfig`, or `trust` no `TrustConfig`.
    """
    check_given(StorageConfig, storage=storage)
    check_given(TrustConfig, trust=trust)
    written = os.fspath(address) if isinstance(address, os.PathLike) else address
    if not isinstance(written, str) or not written.strip() or "\0" in written:
        raise InputError(f"{address!r} is no address of a table; {_ADDRESSES}")
    return absolute(written)


def open_dataset(uri: str, storage: StorageConfig, version: Version | None = None) -> LanceDataset:
    """Open a dataset at a version number, at a tag or at a time; None is the newest version.

    At a time, the newest version that was there is opened: at a version's own time, that version.

    Raises:
        InputError: `version` is neither a number, a tag nor a time, or the address is of an unknown kind.
        TableNotFound: There is nothing at that address, or it has no such version.
    """
    wanted = _read_version(version)
    if "://" not in uri and (file := _file_on_the_way(Path(uri))):
        raise TableNotFound(f"{file} is a file; a table is a folder that `mlake embed CONFIG` makes, in a folder")
    try:
        access = lance_access(uri, storage)
        address = None if "table_id" in access else uri
        if isinstance(wanted, dt.datetime):
            return lance.dataset(address, asof=wanted, **access)
        return lance.dataset(address, version=wanted, **access)
    except (ValueError, OSError, OverflowError) as error:
        if isinstance(error, OverflowError) or any(said in str(error).lower() for said in _MISSING):
            if version is not None:
                raise TableNotFound(_no_version(uri, version, open_dataset(uri, storage))) from None
            if tables := tables_in(uri):
                raise TableNotFound(
                    f"{uri} is no table, but a folder of tables: {', '.join(tables)}; name one"
                ) from None
            near = nearest(Path(uri).name, _tables_beside(uri))
            raise TableNotFound(f"no table at {uri}{near}; `mlake embed CONFIG` makes one") from None
        if "Invalid user input" in str(error):
            raise InputError(f"{uri!r} is no address of a table: {reason_of(error)}; {_ADDRESSES}") from None
        raise


def _read_version(version: object) -> Version | None:
    """Return a version as Lance takes it.

    Of a time, Lance opens the version before it, so it becomes the next microsecond, of this system's zone.
    """
    if isinstance(version, np.integer):
        return int(version)
    if isinstance(version, dt.datetime) and version == version:  # pandas' NaT is a datetime
        to_python = getattr(version, "to_pydatetime", None)  # pandas' own times are as well
        when: dt.datetime = version if to_python is None else to_python(warn=False)
        try:
            return when.astimezone().replace(tzinfo=None) + _TICK
        except (OverflowError, ValueError, OSError):
            raise InputError(f"version {version!r} is too far from now; pass a time since the table was made") from None
    if version is None or (isinstance(version, (int, str)) and not isinstance(version, bool)):
        return version
    raise InputError(f"version {version!r} is none; pass a version's number, a tag, or a datetime")


def _tables_beside(uri: str) -> list[str]:
    """Return the names of the tables in the folder of a local address."""
    return [] if "://" in uri else tables_in(str(Path(uri).parent))


def is_table(address: str) -> bool:
    """Tell whether an address is, or may be, a table: it is in a store, or holds versions."""
    return "://" in address or (Path(address) / "_versions").is_dir()


def tables_in(folder: str) -> list[str]:
    """Return the names of the tables in a local folder, without their companions; none of one in a store."""
    if "://" in folder:
        return []
    return sorted(path.name for path in Path(folder).glob("*.lance") if companion_stem(str(path)) is None)


def check_place(uri: str) -> None:
    """Refuse a local address where no table can be made; what a store allows is not asked.

    Raises:
        TableError: A part of the path is a file or has too long a name, or the folder may not be written to.
    """
    if "://" in uri:
        return
    if file := _file_on_the_way(path := Path(uri)):
        raise TableError(f"{file} is a file, so no table can be at {uri}; name a folder that is not there yet")
    there = next(part for part in path.parents if part.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise TableError(f"no table can be made at {uri}: {there} may not be written to; name another folder")


def _no_version(uri: str, version: Version, newest: LanceDataset) -> str:
    """Say which versions there are in place of one that is not."""
    if isinstance(version, dt.datetime):
        versions: list[dict[str, Any]] = newest.versions()  # type: ignore[assignment] # its annotation lacks the time
        oldest = min(each["timestamp"] for each in versions).astimezone(dt.UTC)
        return f"{uri} has no version of {version}; its oldest is of {oldest:%Y-%m-%d %H:%M:%S} UTC"
    tags = ", ".join(sorted(newest.tags.list()))
    there = f", and its tags are: {tags}" if tags and isinstance(version, str) else ""
    return f"{uri} has no version {reprlib.repr(version)}; its newest is {newest.version}{there}"


def _file_on_the_way(path: Path) -> Path | None:
    """Return the part of a path that is there and is no folder, where a table cannot be.

    Raises:
        TableError: A part of it has too long a name.
    """
    try:
        there = next((part for part in (path, *path.parents) if part.exists()), path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise TableError(f"no table can be at {path}: {reason_of(error)}; name a folder with a shorter name") from None
    return there if there.exists() and not there.is_dir() else None
