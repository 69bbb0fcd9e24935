"""The protocol of stores (local disk, S3, fsspec): a File and its identity, finding files, opening one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from pipelines.shards.names import NamePattern
from schemas.errors import ShardChanged, ShardNotFound


@dataclass(frozen=True)
class File:
    """A file's identity: its address, its size in bytes, and a tag that changes when its content does.

    Attributes:
        uri: The one form of its address.
        size: Bytes.
        etag: The tag.
        real: Address behind every link; two files that are one have the same. Empty where a store has no links.
        is_spelled: Whether a pattern matched the file's own name, not only a folder above it.
    """

    uri: str
    size: int
    etag: str
    real: str = field(default="", compare=False)
    is_spelled: bool = field(default=True, compare=False)


class Store(Protocol):
    """A kind of storage."""

    @property
    def lists_by_prefix(self) -> bool:
        """Whether the beginning of a name stands for all names that begin like this."""
        ...

    def address(self, uri: str) -> str:
        """Return the one form of an address in this store."""
        ...

    def stat(self, uris: Sequence[str]) -> dict[str, File]:
        """Look up files; return those that exist, by the address that was given."""
        ...

    def is_folder(self, uri: str) -> bool:
        """Return whether a folder is there; a store without folders has one where a file is below it."""
        ...

    def walk(self, names: NamePattern) -> Iterator[File]:
        """Find the files that a pattern stands for; none if its folder is not there."""
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

    def check_unchanged(self, file: File, opened: BinaryIO) -> None:
        """Check, after a file was read, that it is still the one that was listed.

        Raises:
            ShardChanged: It was written to meanwhile, so what was read may be a mixture.
        """
        ...


def gone(uri: str) -> ShardNotFound:
    """Make the error for a file that has disappeared since it was listed."""
    return ShardNotFound(f"{uri} is gone since it was listed; run again to list it again")


def changed(uri: str) -> ShardChanged:
    """Make the error for a file that has changed since it was listed."""
    return ShardChanged(f"{uri} has changed since it was listed; run again to list it again")
