"""The local disk as a store."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from pipelines.shards.names import NamePattern, ending_of
from pipelines.shards.store_protocol import File, changed, gone
from pipelines.storage.addresses import absolute, local_path, stored_form
from schemas.errors import ShardNotFound, ShardUnreadable

_NO_SUCH_NAME = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})


class LocalStore:
    """The local disk, under absolute paths."""

    lists_by_prefix = False

    def address(self, uri: str) -> str:
        """Return the absolute path."""
        return _path(uri)

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Look up files; return those that exist."""
        files = ((uri, self._look_up(_path(uri))) for uri in uris)
        return {uri: file for uri, file in files if file is not None}

    def is_folder(self, uri: str) -> bool:
        """Return whether a folder is there."""
        try:
            return Path(_path(uri)).is_dir()
        except (OSError, ValueError):
            return False

    def walk(self, names: NamePattern) -> Iterator[File]:
        """Find the files of a pattern, below links as well; a link back to a folder above it is passed over."""
        start = names.folder or "/"
        todo = [(start, os.path.realpath(start), frozenset[str]())]
        while todo:
            folder, real_folder, above = todo.pop()
            for entry in _entries(folder, is_start=not above):
                path = f"{folder.rstrip('/')}/{entry.name}"
                if entry.is_dir():
                    real_path = os.path.realpath(path) if entry.is_symlink() else f"{real_folder}/{entry.name}"
                    if names.enters(path) and real_path not in above and real_path != real_folder:
                        todo.append((path, real_path, above | {real_folder}))
                elif names.matches(path):
                    yield from self._discovered(entry, path, real_folder, spelled=names.spells(path))

    def neighbours(self, uri: str) -> list[str]:
        """Return the names in the directory of an address."""
        parent = Path(_path(uri)).parent
        try:
            return sorted(path.name for path in parent.iterdir())
        except (OSError, ValueError):
            return []

    def open(self, file: File, *, is_forward: bool = True) -> BinaryIO:
        """Open a file for reading."""
        path = _path(file.uri)
        try:
            opened = open(path, "rb", buffering=0)  # noqa: SIM115, PTH123 - closed by the caller; raw, reads are large
        except FileNotFoundError:
            raise gone(file.uri) from None
        except OSError as error:
            raise ShardUnreadable(f"{file.uri} cannot be opened: {error.strerror}") from None
        try:
            self.check_unchanged(file, opened)
        except BaseException:
            opened.close()
            raise
        return cast(BinaryIO, opened)

    def check_unchanged(self, file: File, opened: BinaryIO) -> None:
        """Compare an open file with the one that was listed. One that was replaced as a whole still has its bytes."""
        stat = os.fstat(opened.fileno())
        if (stat.st_size, str(stat.st_mtime_ns)) != (file.size, file.etag):
            raise changed(file.uri)

    def _look_up(self, path: str) -> File | None:
        try:
            return _file(path, os.path.realpath(Path(path).parent)) if Path(path).is_file() else None
        except ValueError:  # a zero byte
            return None
        except OSError as error:
            if error.errno in _NO_SUCH_NAME:
                return None
            raise ShardUnreadable(f"{path} cannot be looked up: {error.strerror}") from None

    def _discovered(self, entry: os.DirEntry[str], path: str, real_folder: str, *, spelled: bool) -> Iterator[File]:
        if entry.is_file():
            if entry.is_symlink():
                yield _file(path, real_folder, is_spelled=spelled)
            else:
                uri, stat = stored_form(f"{real_folder.rstrip('/')}/{entry.name}"), entry.stat()
                yield File(uri, stat.st_size, str(stat.st_mtime_ns), real=uri, is_spelled=spelled)
        elif entry.is_symlink() and ending_of(path) and not Path(path).exists():
            raise ShardNotFound(
                f"{path} is a link to {Path(path).readlink()}, which is not there; repair the link, or remove it"
            )


def _entries(folder: str, *, is_start: bool) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder, in no order; nothing is kept, since it may be very much."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        if not is_start or error.errno not in _NO_SUCH_NAME:
            raise ShardUnreadable(f"{folder} cannot be listed: {error.strerror}") from None
    except ValueError:  # a zero byte
        return


def _path(uri: str) -> str:
    return cast(str, local_path(absolute(uri)))


def _file(path: str, real_folder: str, *, is_spelled: bool = True) -> File:
    """Look up a file. A link stands for its target, under the target's name if that has the same extension."""
    name = path.rpartition("/")[2]
    uri = target = f"{real_folder.rstrip('/')}/{name}"
    if Path(path).is_symlink():
        target = os.path.realpath(path)
        if ending_of(target) == ending_of(name):
            uri = target
    stat = Path(target).stat()
    return File(stored_form(uri), stat.st_size, str(stat.st_mtime_ns), real=stored_form(target), is_spelled=is_spelled)
