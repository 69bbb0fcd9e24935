"""Members of a tar without plain data of their own: links, sparse files, devices.

Owns how the data of a sparse member is put together, and how a link is followed to a member of the same archive. A link
never leads out of its archive.

Source: GNU tar manual, "Storing Sparse Files" (formats oldgnu, 0.0, 0.1 and 1.0); POSIX.1-2017, pax.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from pipelines.shards.decompression import ByteStream, Damage

_BLOCK = 512
_MAX_HOPS = 40
_MAX_MAP_PIECES = 1 << 20

Piece = tuple[int, int]
"""Offset in the file, and bytes, of one piece of a sparse file."""


@dataclass(frozen=True)
class Link:
    """A member that stands for another one.

    Attributes:
        name: Its name.
        target: Name of the other member, as the link writes it.
        is_hard: A hard link names a member; a symbolic one, a path from its own folder.
    """

    name: str
    target: str
    is_hard: bool

    @property
    def path(self) -> str:
        """The member that it leads to, as `normal_name` writes it; empty if it leads out of the archive."""
        folder = "" if self.is_hard else posixpath.dirname(self.name)
        path = normal_name(posixpath.join(folder, self.target))
        return "" if path.startswith(("/", "../")) or path == ".." else path

    def __str__(self) -> str:
        return f"is a {'hard' if self.is_hard else 'symbolic'} link to {self.target}"


@dataclass(frozen=True)
class NoFile:
    """A member that holds no data: a device, a pipe, or the rest of a file from another volume."""

    name: str
    what: str


def normal_name(name: str) -> str:
    """Write the name of a member in one form: `./a//b` is `a/b`."""
    return posixpath.normpath(name)


@dataclass(frozen=True)
class SparseMap:
    """Where the stored data of a sparse member belongs.

    Attributes:
        size: Bytes of the whole file.
        pieces: The pieces, in the order in which they are stored; None where the stored data begins with them.
    """

    size: int
    pieces: Sequence[Piece] | None

    def expand(self, stored: bytes) -> bytes:
        """Put the file together; holes are zeros.

        Raises:
            Damage: The pieces do not fit the file or the data.
        """
        pieces, at = (self.pieces, 0) if self.pieces is not None else _leading_map(stored)
        whole = bytearray(self.size)
        for offset, count in pieces:
            if not (0 <= offset <= offset + count <= self.size and at + count <= len(stored)):
                raise Damage("corrupt_shard", "has a sparse map that does not fit its data")
            whole[offset : offset + count] = stored[at : at + count]
            at += count
        return bytes(whole)


def sparse_of_records(records: Mapping[str, str]) -> SparseMap | None:
    """Read the sparse map of pax records, formats 0.0, 0.1 and 1.0; None if there is none.

    Raises:
        ValueError: It is malformed.
    """
    size = records.get("GNU.sparse.realsize", records.get("GNU.sparse.size"))
    if size is None:
        return None
    if "GNU.sparse.map" not in records:
        return SparseMap(int(size), None)
    numbers = [int(number) for number in records["GNU.sparse.map"].strip(",").split(",") if number]
    return SparseMap(int(size), list(zip(numbers[::2], numbers[1::2], strict=True)))


def sparse_of_header(block: bytes, number: Callable[[bytes], int], more: Iterator[bytes]) -> SparseMap:
    """Read the sparse map of an old GNU header, and of the blocks that continue it.

    Raises:
        ValueError: It is malformed.
    """
    pieces = _pieces(block[386:482], number)
    is_continued = block[482]
    while is_continued:
        block_of_pieces = next(more, None)
        if block_of_pieces is None or len(pieces) > _MAX_MAP_PIECES:
            raise ValueError("its sparse map does not end")
        pieces += _pieces(block_of_pieces[:504], number)
        is_continued = block_of_pieces[504]
    return SparseMap(number(block[483:495]), pieces)


def _pieces(fields: bytes, number: Callable[[bytes], int]) -> list[Piece]:
    entries = (fields[at : at + 24] for at in range(0, len(fields), 24))
    return [(number(entry[:12]), number(entry[12:])) for entry in entries if entry.strip(b"\0 ")]


def _leading_map(stored: bytes) -> tuple[Sequence[Piece], int]:
    """Read the map that format 1.0 puts before the data: decimal numbers, one a line, filled up to whole blocks."""
    at = 0

    def next_number() -> int:
        nonlocal at
        end = stored.find(b"\n", at, at + 24)
        if end < 0 or not stored[at:end].isdigit():
            raise Damage("corrupt_shard", "has a damaged sparse map")
        value, at = int(stored[at:end]), end + 1
        return value

    count = next_number()
    if count > len(stored):
        raise Damage("corrupt_shard", "has a damaged sparse map")
    pieces = [(next_number(), next_number()) for _ in range(count)]
    return pieces, -(-at // _BLOCK) * _BLOCK


class Links:
    """Follows the links of one archive. The first one costs a walk over all headers."""

    def __init__(self, stream: ByteStream, walk: Callable[[BinaryIO], Iterator[tuple[str, int | Link]]]) -> None:
        """Take an archive.

        Args:
            stream: The archive; only one that can seek has its links followed, so not a compressed one.
            walk: Yields the name of each member from the file's position on, and its place in the file or its link.
        """
        is_seekable = getattr(stream, "seekable", lambda: False)()
        self._file = cast(BinaryIO, stream) if is_seekable else None
        self._walk = walk
        self._places: dict[str, int | Link] | None = None

    def follow(self, link: Link, read: Callable[[BinaryIO], bytes]) -> bytes:
        """Return the data that a link stands for.

        Args:
            link: A link of this archive.
            read: Reads the member at the file's position.

        Raises:
            Damage: It leads to no member with data; the reason is `broken_link`.
        """
        file = self._file
        if file is None:
            raise Damage("broken_link", f"{link}; links in a compressed archive are not followed, so decompress it")
        position = file.tell()
        try:
            if self._places is None:
                file.seek(0)
                self._places = {normal_name(name): place for name, place in self._walk(file)}
            place: int | Link | None = link
            for _ in range(_MAX_HOPS):
                if not isinstance(place, Link):
                    break
                place = self._places.get(place.path)
            if not isinstance(place, int):
                raise Damage("broken_link", f"{link}, which is no file in this archive")
            file.seek(place)
            return read(file)
        finally:
            file.seek(position)
