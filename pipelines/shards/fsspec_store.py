"""Stores that fsspec reaches: https, hf, gs and others, where the library for them is installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, BinaryIO, cast

import fsspec

from pipelines.shards.store_protocol import File, changed, gone
from schemas.errors import DependencyMissing

_READ_AHEAD_BYTES = 8 << 20
# Names that filesystems give to a tag that changes when the content does.
_TAGS = ("ETag", "etag", "blob_id", "sha256", "mtime", "LastModified", "last_modified", "created")


class FsspecStore:
    """A filesystem of fsspec."""

    def __init__(self, uri: str) -> None:
        """Find the filesystem of an address."""
        try:
            self._fs: Any = fsspec.url_to_fs(uri)[0]
        except (ImportError, ValueError) as error:
            scheme = uri.partition("://")[0]
            raise DependencyMissing(f"{uri}: {scheme}:// is read through fsspec, which says: {error}") from None

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Look up files; return those that exist."""
        found = {}
        for uri in uris:
            try:
                info = self._fs.info(uri)
            except FileNotFoundError:
                continue
            if info["type"] == "file":
                found[uri] = self._file(info, uri)
        return found

    def glob(self, pattern: str) -> Iterator[File]:
        """Find files by pattern."""
        for name, info in self._fs.glob(pattern, detail=True).items():
            uri = self._fs.unstrip_protocol(name)
            if info["type"] == "directory":
                yield from self.below(uri)
            else:
                yield self._file(info, uri)

    def below(self, uri: str) -> Iterator[File]:
        """Find all files below a directory."""
        for name, info in self._fs.find(uri, detail=True).items():
            yield self._file(info, self._fs.unstrip_protocol(name))

    def neighbours(self, uri: str) -> list[str]:
        """Return the names in the directory of an address."""
        try:
            return [name.rpartition("/")[2] for name in self._fs.ls(uri.rpartition("/")[0], detail=False)]
        except OSError:
            return []

    def open(self, file: File, *, is_forward: bool = True) -> BinaryIO:
        """Open a file for reading, with read-ahead."""
        now = self.stat([file.uri]).get(file.uri)
        if now is None:
            raise gone(file.uri)
        if now != file:
            raise changed(file.uri)
        return cast(BinaryIO, self._fs.open(file.uri, "rb", block_size=_READ_AHEAD_BYTES, cache_type="readahead"))

    def _file(self, info: dict[str, Any], uri: str) -> File:
        if info.get("size") is None:  # listings of web servers hold names only
            info = self._fs.info(uri)
        tag = next((info[tag] for tag in _TAGS if info.get(tag)), "")
        return File(uri, info.get("size") or 0, str(tag.timestamp() if isinstance(tag, datetime) else tag))
