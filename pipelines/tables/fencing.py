"""Keep a table from pointing at files that are gone: a writer and a cleaner agree by the clock of the table's store.

A cleaner writes into the table's config up to when uncommitted files are given up (`expire_files`), before it deletes
any. A commit refuses files that are that old, or that are gone (`check_files`). Both times are the store's own: when it
says that a file was written. So it does not matter whose clock is wrong, nor how long a writer was suspended.
"""

from __future__ import annotations

import datetime as dt
import tempfile
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from lance import LanceDataset

from pipelines.storage.addresses import split_s3
from pipelines.storage.retry import retry_transient
from pipelines.storage.s3 import s3_client
from schemas.config import StorageConfig
from schemas.errors import RunExpired

GIVEN_UP_KEY = "lake.files_given_up_before"
_AT_ONCE = 16
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})


def store_now(uri: str, storage: StorageConfig) -> dt.datetime:
    """Return the time of a table's store, UTC: when it says that a file was written which is written now.

    A store that is neither a local disk nor S3 is not asked; there it is this machine's time.
    """
    if uri.startswith("s3://"):
        return retry_transient(uri, partial(_s3_now, uri, storage))
    if "://" not in uri:
        try:
            with tempfile.NamedTemporaryFile(dir=uri, prefix=".clock-") as file:
                return _utc(Path(file.name).stat().st_mtime)
        except OSError:  # nothing may be written there
            return dt.datetime.now(dt.UTC)
    return dt.datetime.now(dt.UTC)


def given_up_before(dataset: LanceDataset) -> dt.datetime | None:
    """Return up to when uncommitted files of a table were given up; None if none ever were."""
    written = dataset.config().get(GIVEN_UP_KEY)
    return None if written is None else dt.datetime.fromisoformat(written)


def differ_in_fencing_only(one: LanceDataset, other: LanceDataset) -> bool:
    """Tell whether two versions of a table hold the same but for the time that a cleaner writes into the config."""
    return one.version == other.version or (
        one.schema.equals(other.schema, check_metadata=True)
        and _config(one) == _config(other)
        and [fragment.metadata for fragment in one.get_fragments()]
        == [fragment.metadata for fragment in other.get_fragments()]
        and _segments(one) == _segments(other)
    )


def check_files(dataset: LanceDataset, paths: Iterable[str], storage: StorageConfig) -> None:
    """Refuse to commit files that a cleaner has deleted, or may delete at any moment.

    Args:
        dataset: Open at the version that the commit is compared with.
        paths: New files, relative to the table's address.
        storage: Where S3 is.

    Raises:
        RunExpired: A file is gone or given up.
        OSError: The store does not answer.
    """
    uri, before = dataset.uri.removesuffix("/"), given_up_before(dataset)
    if "://" in uri and not uri.startswith(("s3://", "file://")):
        return  # `mlake clean` deletes nothing there
    written = partial(_written_at, uri, storage)
    with ThreadPoolExecutor(_AT_ONCE, "check-files") as pool:
        for path, at in zip(paths := list(paths), pool.map(written, paths), strict=True):
            if at is None or (before is not None and at < before):
                raise RunExpired(
                    f"{uri}: the file {path} {'is gone' if at is None else 'was given up'}: the run that wrote it was "
                    "not seen for 15 minutes, so `mlake clean` took it for dead; nothing of it is committed any more; "
                    "run the same command again: it resumes"
                )


def _written_at(uri: str, storage: StorageConfig, path: str) -> dt.datetime | None:
    """Return when the store says that a file was written; None if there is no such file."""
    if not uri.startswith("s3://"):
        try:
            return _utc((Path(uri.removeprefix("file://")) / path).stat().st_mtime)
        except FileNotFoundError:
            return None
    return retry_transient(uri, partial(_s3_written_at, f"{uri}/{path}", storage))


def _s3_written_at(uri: str, storage: StorageConfig) -> dt.datetime | None:
    bucket, key = split_s3(uri)
    try:
        return s3_client(storage).head_object(Bucket=bucket, Key=key)["LastModified"]
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in _GONE:
            return None
        raise OSError(f"{uri}: {error}") from error
    except BotoCoreError as error:
        raise OSError(f"{uri}: {error}") from error


def _s3_now(uri: str, storage: StorageConfig) -> dt.datetime:
    bucket, key = split_s3(f"{uri.rstrip('/')}/.clock-{uuid.uuid4().hex}")
    client = s3_client(storage)
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"")
        now = client.head_object(Bucket=bucket, Key=key)["LastModified"]
        client.delete_object(Bucket=bucket, Key=key)
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"{uri}: {error}") from error
    return now


def _utc(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _config(dataset: LanceDataset) -> dict[str, str]:
    return {key: text for key, text in dataset.config().items() if key != GIVEN_UP_KEY}


def _segments(dataset: LanceDataset) -> set[str]:
    return {segment.uuid for index in dataset.describe_indices() for segment in index.segments}
