"""S3, and stores with its interface: finding objects.

The client is that of `pipelines.storage.s3`; reading an object is in `s3_file`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, cast

from botocore.exceptions import BotoCoreError, ClientError

from pipelines.shards.s3_file import FORWARD, SCATTERED, S3File, explain
from pipelines.shards.store_protocol import File, glob_regex
from pipelines.storage.addresses import split_s3
from pipelines.storage.s3 import s3_client
from schemas.config import StorageConfig
from schemas.errors import ShardNotFound

_HEAD_AT_MOST = 16


class S3Store:
    """Objects of S3, under `s3://bucket/key`."""

    def __init__(self, storage: StorageConfig) -> None:
        """Connect.

        Raises:
            ConfigError: The named profile does not exist.
        """
        self._client = s3_client(storage)

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Look up objects; return those that exist. Many are looked up in one listing of their common prefix."""
        if len(uris) <= _HEAD_AT_MOST:
            heads = ((uri, self._head(uri)) for uri in uris)
            return {uri: file for uri, file in heads if file is not None}
        wanted = set(uris)
        shared = os.path.commonprefix(list(uris))  # noqa: RUF071 - by character, as S3's prefixes are
        return {file.uri: file for file in self._list(shared) if file.uri in wanted}

    def glob(self, pattern: str) -> Iterator[File]:
        """Find objects by `*`, `?`, `[…]` and `**`; a matching folder stands for all objects below it."""
        fixed = pattern[: min(pattern.find(c) for c in "*?[" if c in pattern)]
        matches = glob_regex(pattern.rstrip("/"))
        for file in self._list(fixed):
            folders = (file.uri[:at] for at, c in enumerate(file.uri) if c == "/" and at > len(fixed) - 1)
            if matches.match(file.uri) or any(matches.match(folder) for folder in folders):
                yield file

    def below(self, uri: str) -> Iterator[File]:
        """Find all objects below a folder; if there is no such folder, all whose address begins like this."""
        is_folder = False
        for file in self._list(uri.rstrip("/") + "/"):
            is_folder = True
            yield file
        if not is_folder and not uri.endswith("/"):
            yield from self._list(uri)

    def neighbours(self, uri: str) -> list[str]:
        """Return the names in the folder of an address."""
        bucket, key = split_s3(uri)
        folder = key[: key.rfind("/") + 1]
        with _explained(uri):
            found = self._client.list_objects_v2(Bucket=bucket, Prefix=folder, Delimiter="/")
        names = [each["Key"] for each in found.get("Contents", [])]
        names += [each["Prefix"] for each in found.get("CommonPrefixes", [])]
        return [name.removeprefix(folder) for name in names if name != folder]

    def open(self, file: File, *, is_forward: bool = True) -> BinaryIO:
        """Open an object for reading."""
        return cast(BinaryIO, S3File(self._client, file, FORWARD if is_forward else SCATTERED))

    def _head(self, uri: str) -> File | None:
        bucket, key = split_s3(uri)
        if not key or key.endswith("/"):
            return None
        try:
            with _explained(uri):
                found = self._client.head_object(Bucket=bucket, Key=key)
        except ShardNotFound:
            return None
        return File(uri, found["ContentLength"], found["ETag"].strip('"'))

    def _list(self, prefix: str) -> Iterator[File]:
        bucket, key = split_s3(prefix)
        with _explained(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
                for found in page.get("Contents", []):
                    if not found["Key"].endswith("/"):
                        yield File(f"s3://{bucket}/{found['Key']}", found["Size"], found["ETag"].strip('"'))


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise explain(error, uri) from error
