"""The local disk as a store."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from pipelines.shards.store_protocol import File, changed, gone
from schemas.errors import ShardUnreadable


class LocalStore:
    """The local disk, under absolute paths."""

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Look up files; return those that exist."""
        paths = {uri: Path(uri).expanduser().absolute() for uri in uris}
        return {uri: self._file(path) for uri, path in paths.items() if path.is_file()}

    def glob(self, pattern: str) -> Iterator[File]:
        """Find files by pattern."""
        for name in glob.iglob(str(Path(pattern).expanduser()), recursive=True):  # noqa: PTH207 - Path.glob is relative
            path = Path(name).absolute()
            if path.is_dir():
                yield from self.below(str(path))
            elif path.is_file():
                yield self._file(path)

    def below(self, uri: str) -> Iterator[File]:
        """Find all files below a directory."""
        for path in Path(uri).expanduser().absolute().rglob("*"):
            if path.is_file():
                yield self._file(path)

    def neighbours(self, uri: str) -> list[str]:
        """Return the names in the directory of an address."""
        parent = Path(uri).expanduser().absolute().parent
        return sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []

    def open(self, file: File, *, is_forward: bool = True) -> BinaryIO:
        """Open a file for reading."""
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
