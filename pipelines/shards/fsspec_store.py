"""Stores that fsspec reaches: https, hf, gs and others, where the library for them is installed.

Owns what their errors mean: a file that is not there, a server that refuses, a store that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, BinaryIO, cast

import fsspec

from pipelines.shards.names import NamePattern
from pipelines.shards.store_protocol import File, changed, gone
from schemas.errors import DependencyMissing, ShardUnreadable, reason_of
from schemas.redaction import unsigned

try:
    from aiohttp import ClientError
except ImportError:  # then fsspec has no web addresses either

    class ClientError(Exception):  # type: ignore[no-redef]
        """Stands for the errors of a library that is not there."""


READ_ERRORS = (OSError, ClientError)
"""What reading an opened file may raise."""
_READ_AHEAD_BYTES = 8 << 20
# Names that filesystems give to a tag that changes when the content does.
_TAGS = ("ETag", "etag", "blob_id", "sha256", "mtime", "LastModified", "last_modified", "created")


class FsspecStore:
    """A filesystem of fsspec."""

    lists_by_prefix = False

    def __init__(self, uri: str) -> None:
        """Find the filesystem of an address."""
        try:
            self._fs: Any = fsspec.url_to_fs(uri)[0]
        except (ImportError, ValueError) as error:
            scheme = uri.partition("://")[0]
            raise DependencyMissing(f"{uri}: {scheme}:// is read through fsspec, which says: {error}") from None

    def address(self, uri: str) -> str:
        """Return the address, with the slash that filesystems without hosts put behind `://`."""
        scheme, mark, path = uri.partition("://")
        plain = str(self._fs._strip_protocol(uri))
        return f"{scheme}{mark}{plain}" if plain.strip("/") == path.strip("/") else uri.rstrip("/")

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Look up files; return those that exist."""
        found = {}
        for uri in uris:
            try:
                with _in_words(uri):
                    info = self._fs.info(uri)
            except FileNotFoundError:
                continue
            if info["type"] == "file":
                found[uri] = self._file(info, self.address(uri))
        return found

    def is_folder(self, uri: str) -> bool:
        """Return whether a folder is there."""
        with _in_words(uri):
            return bool(self._fs.isdir(uri))

    def walk(self, names: NamePattern) -> Iterator[File]:
        """Find the files of a pattern."""
        plain = str(self._fs._strip_protocol(names.folder)).rstrip("/")

        def address(name: str) -> str:
            return names.folder + str(self._fs._strip_protocol(name)).removeprefix(plain)

        try:
            for _, folders, files in self._fs.walk(names.folder, detail=True, topdown=True, on_error="raise"):
                for info in files.values():
                    uri = address(info["name"])
                    if names.matches(uri):
                        yield replace(self._file(info, uri), is_spelled=names.spells(uri))
                for name in [name for name, info in folders.items() if not names.enters(address(info["name"]))]:
                    del folders[name]
        except FileNotFoundError:
            return
        except READ_ERRORS as error:
            raise unreadable(names.folder, error) from error

    def neighbours(self, uri: str) -> list[str]:
        """Return the names in the directory of an address."""
        try:
            return [name.rpartition("/")[2] for name in self._fs.ls(uri.rpartition("/")[0], detail=False)]
        except READ_ERRORS:
            return []

    def open(self, file: File, *, is_forward: bool = True) -> BinaryIO:
        """Open a file for reading, with read-ahead."""
        self._check(file)
        with _in_words(file.uri):
            opened = self._fs.open(file.uri, "rb", block_size=_READ_AHEAD_BYTES, cache_type="readahead")
        return cast(BinaryIO, opened)

    def check_unchanged(self, file: File, opened: BinaryIO) -> None:
        """Look the file up again."""
        self._check(file)

    def _check(self, file: File) -> None:
        now = self.stat([file.uri]).get(file.uri)
        if now is None:
            raise gone(file.uri)
        if (now.size, now.etag) != (file.size, file.etag):
            raise changed(file.uri)

    def _file(self, info: dict[str, Any], uri: str) -> File:
        if info.get("size") is None:  # listings of web servers hold names only
            info = self._fs.info(uri)
        tag = next((info[tag] for tag in _TAGS if info.get(tag)), "")
        return File(uri, info.get("size") or 0, str(tag.timestamp() if isinstance(tag, datetime) else tag))


def unreadable(uri: str, error: BaseException) -> ShardUnreadable:
    """Say why a file cannot be read; a server's refusal in its own words."""
    uri, status = unsigned(uri), getattr(error, "status", None)
    if status in (401, 403):
        return ShardUnreadable(
            f"{uri}: the server refuses it ({status} {getattr(error, 'message', '')}): a signed address may have "
            "expired, or belong to another file; sign it again, or give the credentials that the server asks for"
        )
    return ShardUnreadable(f"{uri}: reading fails: {f'the server answers {status}' if status else reason_of(error)}")


@contextmanager
def _in_words(uri: str) -> Iterator[None]:
    """Turn what a filesystem raises into an error for people; FileNotFoundError stays, if the file is not there.

    fsspec raises it for every answer of a web server that is no file.
    """
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and getattr(cause, "status", None) not in (404, 410):
            raise unreadable(uri, cause) from cause
        raise
    except READ_ERRORS as error:
        raise unreadable(uri, error) from error
