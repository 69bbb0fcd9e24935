"""Where bytes come from: local files, S3, and whatever fsspec reaches. Knows nothing of formats.

Owns opening, finding, and noticing that a file is no longer the one that was listed.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from schemas.config import StorageConfig
from schemas.errors import DependencyMissing, ShardNotFound, ShardUnreadable
from schemas.records import Shard

_READ_AHEAD_BYTES = 8 << 20


@dataclass(frozen=True)
class File:
    """A file's identity: its address, its bytes, and a tag that changes when its content does."""

    uri: str
    size: int
    etag: str


class Store(Protocol):
    """A kind of place."""

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Return those of the files that are there, by the address asked for."""
        ...

    def glob(self, pattern: str) -> Iterator[File]:
        """Find files by `*`, `?`, `[…]` and `**`. A directory that matches stands for all below it."""
        ...

    def below(self, uri: str) -> Iterator[File]:
        """Find all files in a directory and below it; nothing if it is none."""
        ...

    def neighbours(self, uri: str) -> list[str]:
        """Return names in the directory of an address, for the message that it is not there."""
        ...

    def open(self, file: File) -> BinaryIO:
        """Open for reading, seekable.

        Raises:
            ShardNotFound: It is gone.
            ShardUnreadable: It cannot be opened, or has changed since it was listed.
        """
        ...


def store_of(uri: str, storage: StorageConfig) -> Store:
    """Return the store of an address.

    Raises:
        DependencyMissing: A library that this kind of address needs is not installed.
    """
    if "://" not in uri:
        return LocalStore()
    return FsspecStore(uri)


@contextmanager
def open_shard(shard: Shard, storage: StorageConfig) -> Iterator[BinaryIO]:
    """Open a shard's bytes for reading, seekable.

    Raises:
        ShardNotFound: It is gone.
        ShardUnreadable: It cannot be opened, is no longer the file that was listed, or cannot be read on.
    """
    file = store_of(shard.uri, storage).open(File(shard.uri, shard.size, shard.etag))
    with closing(file):
        try:
            yield file
        except OSError as error:
            raise ShardUnreadable(f"{shard.uri}: reading fails: {error}") from error


class LocalStore:
    """Files of this machine, under absolute paths."""

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Return those of the files that are there."""
        paths = {uri: Path(uri).expanduser().absolute() for uri in uris}
        return {uri: self._file(path) for uri, path in paths.items() if path.is_file()}

    def glob(self, pattern: str) -> Iterator[File]:
        """Find files by pattern."""
        for name in glob.iglob(str(Path(pattern).expanduser()), recursive=True):  # noqa: PTH207 - Path.glob is relative
            path = Path(name).absolute()
            if path.is_dir():
                yield from self.below(str(path))
            else:
                yield self._file(path)

    def below(self, uri: str) -> Iterator[File]:
        """Find all files in a directory and below it."""
        for path in Path(uri).expanduser().absolute().rglob("*"):
            if path.is_file():
                yield self._file(path)

    def neighbours(self, uri: str) -> list[str]:
        """Return names in the directory of an address."""
        parent = Path(uri).expanduser().absolute().parent
        return sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []

    def open(self, file: File) -> BinaryIO:
        """Open for reading."""
        try:
            opened = open(file.uri, "rb", buffering=0)  # noqa: SIM115, PTH123 - closed by the caller; raw, reads are large
            now = self._file(Path(file.uri))
        except FileNotFoundError:
            raise gone(file.uri) from None
        except OSError as error:
            raise ShardUnreadable(f"{file.uri} cannot be opened: {error.strerror}") from None
        if now != file:
            opened.close()
            raise changed(file.uri)
        return cast(BinaryIO, opened)

    def _file(self, path: Path) -> File:
        stat = path.stat()
        return File(str(path), stat.st_size, str(stat.st_mtime_ns))


class FsspecStore:
    """Whatever fsspec reaches: https, hf, gs and others."""

    def __init__(self, uri: str) -> None:
        """Find the filesystem of an address."""
        try:
            import fsspec

            self._fs: Any = fsspec.url_to_fs(uri)[0]
        except (ImportError, ValueError) as error:
            scheme = uri.partition("://")[0]
            raise DependencyMissing(f"{uri}: {scheme}:// is read through fsspec, which says: {error}") from None

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Return those of the files that are there."""
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
        """Find all files in a directory and below it."""
        for name, info in self._fs.find(uri, detail=True).items():
            yield self._file(info, self._fs.unstrip_protocol(name))

    def neighbours(self, uri: str) -> list[str]:
        """Return names in the directory of an address."""
        try:
            return [name.rpartition("/")[2] for name in self._fs.ls(uri.rpartition("/")[0], detail=False)]
        except OSError:
            return []

    def open(self, file: File) -> BinaryIO:
        """Open for reading, with read-ahead."""
        now = self.stat([file.uri]).get(file.uri)
        if now is None:
            raise gone(file.uri)
        if now != file:
            raise changed(file.uri)
        return cast(BinaryIO, self._fs.open(file.uri, "rb", block_size=_READ_AHEAD_BYTES, cache_type="readahead"))

    def _file(self, info: dict[str, Any], uri: str) -> File:
        tags = ("ETag", "etag", "blob_id", "sha256", "mtime", "LastModified", "last_modified", "created")
        etag = next((str(info[tag]) for tag in tags if info.get(tag)), "")
        return File(uri, info.get("size") or 0, etag)


def glob_regex(pattern: str) -> re.Pattern[str]:
    """Translate a glob, in which only `**` crosses `/`, for matching whole addresses."""
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    return re.compile("".join(tokens.get(p) or _class(p) for p in parts) + r"\Z", re.DOTALL)


def _class(part: str) -> str:
    if part.startswith("[") and part.endswith("]"):
        inside = part[1:-1].replace("\\", "\\\\")
        return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    return re.escape(part)


def gone(uri: str) -> ShardNotFound:
    """Say that a file is no longer there."""
    return ShardNotFound(f"{uri} is gone since it was listed; run again to list anew")


def changed(uri: str) -> ShardUnreadable:
    """Say that a file is another than the one that was listed."""
    return ShardUnreadable(f"{uri} has changed since it was listed; run again to list anew")
