"""Tar archives as a forward stream: ustar, pax, GNU long names, old v7. It neither seeks nor writes.

Owns the archive's blocks and the recovery from damage; has no samples. After a damaged header it continues at the next
valid one. A cut at any byte, even between two members, is noticed, because archives end with two blocks of zeros.

It is our own because tarfile takes many times as long per member (benchmarks/shards.py), and stops at a damaged header
without an error.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.shards.contents import foreign
from pipelines.shards.decompression import ByteStream, Damage
from pipelines.shards.tar_links import Link, Links, NoFile, SparseMap, sparse_of_header, sparse_of_records

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_CHUNK_BYTES = 1 << 20
_MAX_EXTENSION_BYTES = 1 << 20
# Two blocks of zeros end an archive; most writers fill its last record of 20. Many more are a broken download's end.
_END_BLOCKS, _RECORD_BLOCKS, _MOST_ZERO_BLOCKS = 2, 20, 128
_SIZE_DIGITS = 20
_SIZES = ("size", "GNU.sparse.size", "GNU.sparse.realsize")
_MAGIC = b"ustar"
_MAGIC_AT = 257
_NO_DATA = b"123456"
_LINKS = b"12"
_FOLDERS = b"5DV"  # folders, and the label of a volume
_NO_FILES = {ord("3"): "a device", ord("4"): "a device", ord("6"): "a pipe", ord("M"): "the rest of a file"}
_SPARSE = ord("S")
_PLAIN = ord("0")
_EXTENSIONS = b"xXgLK"
_BLANK = b" " * 8
_ADLER_BASE = 65521

Header = tuple[str, int, int]
"""Name, bytes of data, type flag."""


class Shift(Damage):
    """Damage that shifted all later bytes: the member before it may be wrong as well."""


class TarStream:
    """Walks over the members of an archive; `read` returns the data of the current one."""

    def __init__(self, stream: ByteStream) -> None:
        """Start at the first header."""
        self._stream = stream
        self._buffer, self._at, self._base = b"", 0, 0
        self._data_at = 0
        self._member_at = 0
        self._size = 0
        self._sparse: SparseMap | None = None
        self._padding = 0
        self._unread = 0
        self._zero_blocks = 0
        self._archive_at = 0
        self._links = Links(stream, _places)

    def members(self) -> Iterator[tuple[str, int] | Link | NoFile | Damage]:
        """Yield name and size of each member, and a Damage where data is lost; a truncation comes last.

        A Link or a NoFile stands for a member without data of its own; folders are left out.
        """
        try:
            yield from self._walk()
        except Damage as damage:
            yield damage

    def read(self) -> bytes | None:
        """Return the data of the current member; None if the archive is cut off in it, which `members` reports next.

        Raises:
            Damage: It is a sparse file whose parts do not fit together.
        """
        size = self._size
        try:
            if not self._fill(size):
                return None
        except Damage:
            return None
        data = self._buffer[self._at : self._at + size]
        self._at += size
        self._unread -= size
        return data if self._sparse is None else self._sparse.expand(data)

    def follow(self, link: Link, max_bytes: int) -> bytes:
        """Return the data of the member that a link leads to, which may come later in the archive.

        Raises:
            Damage: It leads to none (`broken_link`), or to one of more than `max_bytes` (`too_large`).
        """
        return self._links.follow(link, lambda file: _read_one(file, max_bytes))

    def _walk(self) -> Iterator[tuple[str, int] | Link | NoFile | Damage]:
        if self._fill(1) and (said := foreign(self._buffer[:_BLOCK], "a tar archive")):
            raise Damage("corrupt_shard", said)
        records: dict[str, str] = {}
        is_named, is_first = True, True
        while (block := self._next_block()) is not None:
            if self._zero_blocks and (hole := self._end_archive()):
                yield hole
            header = _parse(block)
            if header is None:
                yield self._find_header()
                records, is_named, is_first = {}, not _names_next(block), True
                continue
            if is_first:
                self._member_at = self._offset
            self._at += _BLOCK
            self._data_at = self._offset
            name, size, kind = header
            if kind == _PLAIN and is_first and is_named and name[-1] != "/":  # almost every member: as fast as can be
                self._size, self._padding, self._sparse = size, -size % _BLOCK, None
                self._unread = size + self._padding
                yield name, size
                continue
            try:
                if kind in _EXTENSIONS:
                    records |= self._extension(kind, size)
                    is_first = False
                    continue
                member = self._begin(records.get("path", name), int(records.get("size", size)), kind, block, records)
            except ValueError as error:
                yield Damage("corrupt_shard", f"the extended header before byte {self._offset} is damaged: {error}")
                is_named = False
                continue
            if is_named and member is not None:
                yield member
            records, is_named, is_first = {}, True, True

    def _begin(
        self, name: str, size: int, kind: int, block: bytes, records: dict[str, str]
    ) -> tuple[str, int] | Link | NoFile | None:
        """Begin a member whose data is next; return None if it is a folder.

        Raises:
            ValueError: Its sparse map is malformed; its data is passed over.
        """
        self._size, self._padding = size, -size % _BLOCK
        self._sparse = None
        self._unread = 0 if kind in _NO_DATA else size + self._padding
        if kind == _SPARSE:
            self._sparse = sparse_of_header(block, _number, self._map_blocks())
        elif "GNU.sparse.name" in records or "GNU.sparse.size" in records or "GNU.sparse.realsize" in records:
            self._sparse = sparse_of_records(records)
            name = records.get("GNU.sparse.name", name)
        if kind in _LINKS:
            return Link(name, records.get("linkpath") or _text(block[157:257]), is_hard=kind == _LINKS[0])
        if kind in _NO_FILES:
            return NoFile(name, _NO_FILES[kind])
        if kind in _FOLDERS or name.endswith("/"):
            return None
        return name, size if self._sparse is None else max(size, self._sparse.size)

    def _map_blocks(self) -> Iterator[bytes]:
        """Yield the blocks between a header and its data."""
        while self._fill(_BLOCK):
            self._at += _BLOCK
            self._data_at = self._offset
            yield self._buffer[self._at - _BLOCK : self._at]

    def _next_block(self) -> bytes | None:
        """Skip the rest of the last member and zeros; return the next header, None at the end."""
        while True:
            at = self._at + self._unread
            if at + _BLOCK <= len(self._buffer):
                self._at, self._unread = at, 0
            else:
                self._skip()
            if not self._fill(_BLOCK):
                if self._zero_blocks < 2 or self._at < len(self._buffer) or self._zero_blocks > _MOST_ZERO_BLOCKS:
                    raise self._cut()
                return None
            block = self._buffer[self._at : self._at + _BLOCK]
            if block != _ZEROS:
                return block
            self._at += _BLOCK
            self._zero_blocks += 1

    def _find_header(self) -> Damage:
        """Move to the next valid header, from a place where there is none.

        The search begins within the data of the last member: if part of it is missing, the next header comes too early.
        """
        lost_from = self._offset
        # If the padding behind the last member is where it should be, so is its data.
        is_padded = self._padding > 0 and not self._buffer[self._at - self._padding : self._at].strip(b"\0")
        self._at = max(self._data_at - self._base, 0)
        while True:
            found = self._buffer.find(_MAGIC, self._at + _MAGIC_AT)
            if found < 0:
                self._at = max(self._at, len(self._buffer) - _MAGIC_AT - len(_MAGIC) + 1)
            else:
                self._at = found - _MAGIC_AT
            if not self._fill(_BLOCK if found >= 0 else len(self._buffer) - self._at + 1):
                self._at = len(self._buffer)
                self._zero_blocks = 2
                return Damage("corrupt_shard", f"is damaged from byte {lost_from} on; no sample is found behind that")
            if found >= 0:
                if _parse(self._buffer[self._at : self._at + _BLOCK]):
                    break
                self._at += 1
        if self._offset < lost_from or ((self._offset - lost_from) % _BLOCK and not is_padded):
            return Shift("corrupt_shard", f"has lost or gained bytes before byte {self._offset}")
        return Damage("corrupt_shard", f"has a damaged header; bytes {lost_from} to {self._offset - 1} are passed over")

    def _extension(self, kind: int, size: int) -> dict[str, str]:
        """Read a pax or GNU header, which describes the member behind it."""
        if size > _MAX_EXTENSION_BYTES:
            raise ValueError(f"it claims {size} bytes")
        self._size, self._padding, self._sparse = size, -size % _BLOCK, None
        self._unread = size + self._padding
        data = self.read()
        if data is None:
            return {}
        if kind in b"xX":
            return _pax_records(data)
        return {} if kind == ord("g") else {"path" if kind == ord("L") else "linkpath": _text(data)}

    def _skip(self) -> None:
        while self._unread > len(self._buffer) - self._at:
            self._unread -= len(self._buffer) - self._at
            self._at = len(self._buffer)
            if not self._fill(1):
                raise self._cut()
        self._at += self._unread
        self._unread = 0

    def _fill(self, size: int) -> bool:
        """Fill the buffer to at least `size` bytes; return False if the stream ends first."""
        if len(self._buffer) - self._at >= size:
            return True
        have = len(self._buffer) - self._at
        start = max(self._data_at - self._base, self._at - _CHUNK_BYTES, 0)
        pieces = [self._buffer[start:]]
        try:
            while have < size and (piece := self._stream.read(max(_CHUNK_BYTES, size - have))):
                pieces.append(piece)
                have += len(piece)
        finally:
            self._buffer = b"".join(pieces)
            self._base, self._at = self._base + start, self._at - start
        return have >= size

    @property
    def _offset(self) -> int:
        return self._base + self._at

    def _cut(self) -> Damage:
        end = self._base + len(self._buffer)
        if self._zero_blocks > _MOST_ZERO_BLOCKS:
            return Damage(
                "truncated_shard", f"ends in {self._zero_blocks * _BLOCK} zeros, too many for an archive's end"
            )
        return Damage("truncated_shard", f"breaks off at byte {end}, which is not the end of an archive")

    def _end_archive(self) -> Damage | None:
        """Begin the next of several archives that are written one behind the other; return a Damage if it is a hole.

        Zeros end an archive if they are as many as a writer puts there: two blocks, or as many more as fill a record.
        """
        blocks, self._zero_blocks = self._zero_blocks, 0
        is_filled = (self._offset - self._archive_at) % (_RECORD_BLOCKS * _BLOCK) == 0
        if blocks == _END_BLOCKS or (is_filled and _END_BLOCKS < blocks <= _END_BLOCKS + _RECORD_BLOCKS):
            self._archive_at = self._offset
            return None
        return Damage("corrupt_shard", f"has {blocks * _BLOCK} zeros before byte {self._offset}, which end no archive")


def _places(file: BinaryIO) -> Iterator[tuple[str, int | Link]]:
    """Yield the name of each member of an archive, and where its headers begin, or its link."""
    stream = TarStream(file)
    for member in stream.members():
        if isinstance(member, Link):
            yield member.name, member
        elif isinstance(member, tuple):
            yield member[0], stream._member_at


def _read_one(file: BinaryIO, max_bytes: int) -> bytes:
    """Read the member whose headers begin at the file's position."""
    stream = TarStream(file)
    member = next(stream.members(), None)
    if not isinstance(member, tuple):
        raise Damage("broken_link", "links to a member that cannot be read")
    if member[1] > max_bytes:
        raise Damage("too_large", f"links to {member[1]} bytes; limits.max_sample_bytes is {max_bytes}")
    data = stream.read()
    if data is None:
        raise Damage("truncated_shard", "links to a member that is cut off")
    return data


def _parse(block: bytes) -> Header | None:
    """Read a header; None if its checksum or its numbers are wrong."""
    try:
        stored = _number(block[148:156])
        # Adler-32's low half is the byte sum plus one, modulo its base: the checksum at the speed of C.
        if (zlib.adler32(block[:148] + _BLANK + block[156:]) & 0xFFFF) != (stored + 1) % _ADLER_BASE:
            return None
        size = _number(block[124:136])
    except ValueError:
        return None
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = _text(block[345:500]) + "/" + name
    return (name, size, block[156]) if name and size >= 0 else None


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    return int(field.rstrip(b"\0 ") or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="backslashreplace")


def _pax_records(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        end = at + int(data[at:space])
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not space < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError(f"a record at its byte {at} is malformed")
        name, text = key.decode(errors="backslashreplace"), value.decode(errors="backslashreplace")
        if name in ("GNU.sparse.offset", "GNU.sparse.numbytes"):  # format 0.0 repeats these for each piece
            name, text = "GNU.sparse.map", f"{records.get('GNU.sparse.map', '')}{text},"
        records[name] = text
        at = end
    for size in (records[name] for name in _SIZES if name in records):
        if not (size.isdecimal() and size.isascii() and len(size) < _SIZE_DIGITS):
            raise ValueError(f"it gives a size of {size[:_SIZE_DIGITS]!r}")
    return records


def _names_next(block: bytes) -> bool:
    """Return whether a damaged header was an extended one, so that the name of the next member is lost too."""
    return block[156] in _EXTENSIONS or b"PaxHeader" in block[:100] or b"@LongLink" in block[:100]
