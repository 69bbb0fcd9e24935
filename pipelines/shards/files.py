"""What every kind of store speaks of: a File and its identity."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from schemas.errors import ShardNotFound, ShardUnreadable


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

    def open(self, file: File, *, is_forward: bool = True) -> BinaryIO:
        """Open for reading, seekable; `is_forward` promises that it is read from start to end.

        Raises:
            ShardNotFound: It is gone.
            ShardUnreadable: It cannot be opened, or has changed since it was listed.
        """
        ...


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
