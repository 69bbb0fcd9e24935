"""S3, and stores with its interface: finding objects.

The client is that of `pipelines.storage.s3`; reading an object is in `s3_file`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO, cast

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from pipelines.shards.names import NamePattern
from pipelines.shards.s3_file import FORWARD, SCATTERED, S3File, explain, is_transient
from pipelines.shards.store_protocol import File
from pipelines.storage.addresses import split_s3
from pipelines.storage.s3 import s3_client
from schemas.config import StorageConfig
from schemas.errors import RunError, ShardNotFound

_HEAD_AT_MOST = 16
_LISTED = 1000


class S3Store:
    """Objects of S3, under `s3://bucket/key`."""

    lists_by_prefix = True

    def __init__(self, storage: StorageConfig) -> None:
        """Connect.

        Raises:
            ConfigError: The named profile does not exist.
        """
        self._client = s3_client(storage)

    def address(self, uri: str) -> str:
        """Return the address as it is: a key may hold `//` and `..`."""
        return uri

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Look up objects; return those that exist. Many are looked up in one listing of their common prefix."""
        if len(uris) <= _HEAD_AT_MOST:
            heads = ((uri, self._head(uri)) for uri in uris)
            return {uri: file for uri, file in heads if file is not None}
        wanted = set(uris)
        shared = os.path.commonprefix(list(uris))  # noqa: RUF071 - by character, as S3's prefixes are
        return {file.uri: file for file in self._list(shared) if file.uri in wanted}

    def is_folder(self, uri: str) -> bool:
        """Return whether an object is below a folder."""
        return any(True for _ in self._list(uri.rstrip("/") + "/"))

    def walk(self, names: NamePattern) -> Iterator[File]:
        """Find the objects of a pattern, in one listing of the characters that they all begin with."""
        for file in self._list(names.fixed):
            if names.matches(file.uri):
                yield replace(file, is_spelled=names.spells(file.uri))

    def neighbours(self, uri: str) -> list[str]:
        """Return the names in the folder of an address."""
        bucket, key = split_s3(uri)
        folder = key[: key.rfind("/") + 1]
        names = self._names(uri, bucket, folder)
        if len(names) >= _LISTED:  # those that begin alike may be further on
            names += self._names(uri, bucket, key[: len(folder) + (len(key) - len(folder)) // 2])
        return [name.removeprefix(folder) for name in dict.fromkeys(names) if name != folder]

    def _names(self, uri: str, bucket: str, prefix: str) -> list[str]:
        """Return the first thousand objects and folders whose keys begin alike."""
        with _explained(uri):
            found = self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/", MaxKeys=_LISTED)
        names = [each["Key"] for each in found.get("Contents", [])]
        return names + [each["Prefix"] for each in found.get("CommonPrefixes", [])]

    def open(self, file: File, *, is_forward: bool = True) -> BinaryIO:
        """Open an object for reading."""
        return cast(BinaryIO, S3File(self._client, file, FORWARD if is_forward else SCATTERED))

    def check_unchanged(self, file: File, opened: BinaryIO) -> None:
        """Do nothing: every request names the ETag, so no bytes of another version arrive."""

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
        if isinstance(error, HTTPClientError) or (isinstance(error, ClientError) and is_transient(error)):
            raise RunError(f"{uri}: S3 keeps failing: {error}; run the same command again later: it resumes") from error
        raise explain(error, uri) from error
