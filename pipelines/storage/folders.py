"""Folders of a local disk or of S3: list those whose names begin alike, and remove one with all that is in it.

Owns no decision about what may be removed.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from pipelines.storage.addresses import split_s3
from pipelines.storage.retry import retry_transient
from pipelines.storage.s3 import delete_keys, s3_client
from schemas.config import StorageConfig


def list_folders(start: str, storage: StorageConfig) -> list[str]:
    """Return the addresses of the folders whose address begins with a text; none in other stores.

    Args:
        start: An address up to any letter of a name, such as `s3://lake/photos.g`.
        storage: Where S3 is.
    """
    if start.startswith("s3://"):
        return retry_transient(start, partial(_list_s3, start, storage))
    if "://" in start or not (parent := Path(start).parent).is_dir():
        return []
    named = (path for path in parent.iterdir() if path.name.startswith(Path(start).name))
    return sorted(str(path) for path in named if path.is_dir() and not path.is_symlink())


def remove_folder(uri: str, storage: StorageConfig) -> int:
    """Remove a folder with all its files, if it is there; return their bytes."""
    if uri.startswith("s3://"):
        return retry_transient(uri, partial(_remove_s3, uri, storage))
    folder = Path(uri)
    nbytes = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    if folder.exists():
        shutil.rmtree(folder)
    return nbytes


def _list_s3(start: str, storage: StorageConfig) -> list[str]:
    bucket, prefix = split_s3(start)
    found = []
    try:
        pages = (
            s3_client(storage).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        )
        for page in pages:
            found += [f"s3://{bucket}/{each['Prefix'].rstrip('/')}" for each in page.get("CommonPrefixes", ())]
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"{start}: {error}") from error
    return sorted(found)


def _remove_s3(uri: str, storage: StorageConfig) -> int:
    bucket, prefix = split_s3(f"{uri.rstrip('/')}/")
    nbytes = 0
    try:
        for page in s3_client(storage).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            files = page.get("Contents", [])
            delete_keys(bucket, [file["Key"] for file in files], storage)
            nbytes += sum(file["Size"] for file in files)
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"{uri}: {error}") from error
    return nbytes
