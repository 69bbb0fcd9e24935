"""The protocol of stores (local disk, S3, fsspec): a File and its identity, finding files, opening one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from schemas.errors import ShardNotFound, ShardUnreadable


@dataclass(frozen=True)
class File:
    """A file's identity: its address, its size in bytes, and a tag that changes when its content does."""

    uri: str
    size: int
    etag: str


class Store(Protocol):
    """A kind of storage."""

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Look up files; return those that exist, by the address that was given."""
        ...

    def glob(self, pattern: str) -> Iterator[File]:
        """Find files by `*`, `?`, `[…]` and `**`. A matching directory stands for all files below it."""
        ...

    def below(self, uri: str) -> Iterator[File]:
        """Find all files below a directory; none if it is no directory."""
        ...

    def neighbours(self, uri: str) -> list[str]:
        """Return the names in the directory of an address, for the message that it is missing."""
        ...

    def open(self, file: File, *, is_forward: bool = True) -> BinaryIO:
        """Open a file for reading, seekable; `is_forward` promises that it is read from start to end.

        Raises:
            ShardNotFound: It is gone.
            ShardUnreadable: It cannot be opened, or has changed since it was listed.
        """
        ...


def glob_regex(pattern: str) -> re.Pattern[str]:
    """Translate a glob, in which only `**` crosses `/`, to a pattern that matches whole addresses."""
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    return re.compile("".join(tokens.get(p) or _class(p) for p in parts) + r"\Z", re.DOTALL)


def _class(part: str) -> str:
    if part.startswith("[") and part.endswith("]"):
        inside = part[1:-1].replace("\\", "\\\\")
        return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    return re.escape(part)


def gone(uri: str) -> ShardNotFound:
    """Make the error for a file that has disappeared since it was listed."""
    return ShardNotFound(f"{uri} is gone since it was listed; run again to list it again")


def changed(uri: str) -> ShardUnreadable:
    """Make the error for a file that has changed since it was listed."""
    return ShardUnreadable(f"{uri} has changed since it was listed; run again to list it again")
