"""Small files of which only one writer can make each: the base of publications and of locks.

Owns the conditional write, on a local disk and in S3: `create_file` makes a file whole, or finds it there; of several
writers exactly one makes it. Times are the store's own. Other stores are refused, because no one conditional write is
known to work on all of them.
"""

from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipelines.storage.addresses import split_s3
from pipelines.storage.atomic_files import atomic_path
from pipelines.storage.retry import retry_transient
from pipelines.storage.s3 import check_conditional_writes, s3_client
from schemas.config import StorageConfig
from schemas.errors import ConfigError

_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_TAKEN = frozenset({"409", "412", "ConditionalRequestConflict", "PreconditionFailed"})
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class SmallFile:
    """A file of a folder.

    Attributes:
        name: Its name.
        written_at: When the store says that it was written, UTC.
    """

    name: str
    written_at: dt.datetime


def create_file(uri: str, data: bytes, storage: StorageConfig) -> bool:
    """Make a file whole if there is none of that name; return whether it was made.

    A call whose answer was lost may have made the file and say that it was there; so the data should say who wrote it.

    Raises:
        ConfigError: The store is neither a local disk nor S3, or has no conditional writes.
        OSError: The store refuses.
    """
    if _is_s3(uri):
        check_conditional_writes(uri, storage)
        return retry_transient(uri, partial(_put, uri, data, storage, {"IfNoneMatch": "*"}))
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(unfinished, path)  # fails where the name is taken, unlike a rename
    except FileExistsError:
        return False
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def replace_file(uri: str, data: bytes, storage: StorageConfig) -> None:
    """Write a file whole in place of an older one; only for files that a single writer owns."""
    if _is_s3(uri):
        retry_transient(uri, partial(_put, uri, data, storage, {}))
        return
    with atomic_path(Path(uri)) as unfinished:
        unfinished.write_bytes(data)


def read_file(uri: str, storage: StorageConfig) -> bytes | None:
    """Return the content of a file; None if there is none."""
    if _is_s3(uri):
        return retry_transient(uri, partial(_get, uri, storage))
    try:
        return Path(uri).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_files(folder: str, storage: StorageConfig) -> list[SmallFile]:
    """List the files of a folder by name; none where there is no folder."""
    if _is_s3(folder):
        return retry_transient(folder, partial(_list, folder, storage))
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(Path(folder).iterdir()):
            with suppress(FileNotFoundError):
                if not path.name.endswith(_UNFINISHED):
                    found.append(SmallFile(path.name, dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)))
    return found


def remove_file(uri: str, storage: StorageConfig) -> None:
    """Remove a file, if it is there."""
    if not _is_s3(uri):
        Path(uri).unlink(missing_ok=True)
        return
    bucket, key = split_s3(uri)
    with _as_os_error(uri):
        s3_client(storage).delete_object(Bucket=bucket, Key=key)


def _is_s3(uri: str) -> bool:
    if "://" in uri and not uri.startswith("s3://"):
        raise ConfigError(f"{uri}: publications and nights need a table on a local disk or in S3; move it there")
    return uri.startswith("s3://")


@contextmanager
def _as_os_error(uri: str) -> Iterator[None]:
    """Raise what boto3 raises as an `OSError`, which is what is tried again."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"{uri}: {error}") from error


def _put(uri: str, data: bytes, storage: StorageConfig, condition: dict[str, Any]) -> bool:
    bucket, key = split_s3(uri)
    with _as_os_error(uri):
        try:
            s3_client(storage).put_object(Bucket=bucket, Key=key, Body=data, **condition)
        except ClientError as error:
            if condition and error.response.get("Error", {}).get("Code") in _TAKEN:
                return False
            raise
    return True


def _get(uri: str, storage: StorageConfig) -> bytes | None:
    bucket, key = split_s3(uri)
    with _as_os_error(uri):
        try:
            return s3_client(storage).get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _GONE:
                return None
            raise


def _list(folder: str, storage: StorageConfig) -> list[SmallFile]:
    bucket, prefix = split_s3(f"{folder.rstrip('/')}/")
    found = []
    with _as_os_error(folder):
        for page in s3_client(storage).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            found += [SmallFile(each["Key"][len(prefix) :], each["LastModified"]) for each in page.get("Contents", ())]
    return sorted((file for file in found if "/" not in file.name), key=lambda file: file.name)
