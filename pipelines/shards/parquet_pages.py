"""Dictionary pages of Parquet: how large one is, and its largest value, before Arrow decodes it.

A dictionary stores a value once for all rows that have it, so a file of 2 kB may hold rows of gigabytes. Owns that
bound; Arrow reads the pages themselves.

Source: Apache Parquet format, "Data Pages" and "Dictionary page"; Thrift compact protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

_HEADER_BYTES = 256
_DICTIONARY_PAGE = 2
_INT32 = 5


@dataclass(frozen=True)
class DictionaryPage:
    """The dictionary of one column chunk.

    Attributes:
        nbytes: Bytes once decompressed.
        packed_bytes: Bytes in the file.
        data_at: Where they begin in the file.
    """

    nbytes: int
    packed_bytes: int
    data_at: int


def dictionary_of(file: BinaryIO, chunk: Any) -> DictionaryPage | None:
    """Return the dictionary page of a column chunk (pyarrow's metadata); None if it has none."""
    starts = [chunk.data_page_offset, *([chunk.dictionary_page_offset] if chunk.dictionary_page_offset else [])]
    start = min(starts)
    file.seek(start)
    header = file.read(_HEADER_BYTES)
    try:
        kind, nbytes, packed_bytes = (_int32_field(header, place) for place in (0, 1, 2))
        if kind[0] != _DICTIONARY_PAGE:
            return None
        return DictionaryPage(nbytes[0], packed_bytes[0], start + _struct_end(header))
    except IndexError:  # damaged: Arrow says how
        return None


def largest_value(file: BinaryIO, page: DictionaryPage, chunk: Any) -> int:
    """Return the bytes of the largest value of a dictionary, or of all values where they cannot be told apart."""
    file.seek(page.data_at)
    packed = file.read(page.packed_bytes)
    if chunk.physical_type != "BYTE_ARRAY":
        return page.nbytes
    try:
        plain = packed if chunk.compression == "UNCOMPRESSED" else _decompress(packed, page, chunk)
    except (pa.ArrowException, OSError, ValueError):
        return page.nbytes
    at = largest = 0
    while at + 4 <= len(plain):
        size = int.from_bytes(plain[at : at + 4], "little")
        largest, at = max(largest, size), at + 4 + size
    return min(largest, page.nbytes)


def _decompress(packed: bytes, page: DictionaryPage, chunk: Any) -> bytes:
    name = "lz4_raw" if chunk.compression == "LZ4" else chunk.compression.lower()
    return bytes(pa.Codec(name).decompress(packed, page.nbytes))


def _int32_field(header: bytes, place: int) -> tuple[int, int]:
    """Return the field at a place of a page header, which begins with three int32, and where it ends."""
    at = 0
    value = 0
    for _ in range(place + 1):
        if header[at] != 0x10 | _INT32:
            raise IndexError("not a page header")
        value, at = _varint(header, at + 1)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _struct_end(header: bytes) -> int:
    """Return where the header of a dictionary page ends: behind its fields, which are int32, bool and one struct."""
    at, depth = 0, 1
    while depth:
        kind = header[at]
        at += 1
        match kind & 0x0F:
            case 0:
                depth -= 1
            case 1 | 2:  # true, false
                pass
            case 12:
                depth += 1
            case _:
                _, at = _varint(header, at)
    return at
