"""Pages of Parquet: how large they are, and the largest value of a dictionary, before Arrow decodes them.

A dictionary stores a value once for all rows that have it, and a page may be compressed a thousandfold, so a file of
2 kB may hold rows of gigabytes. Owns that bound; Arrow reads the pages themselves, each of them whole.

Source: Apache Parquet format, "Data Pages" and "Dictionary page"; Thrift compact protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

_HEADER_BYTES = 256
_MOST_HEADER_BYTES = 16 << 20
_DICTIONARY_PAGE = 2
_INT32 = 5
# Those of Parquet are three deep, and its integers have at most 64 bits; damaged ones may go on for megabytes.
_MOST_DEPTH = 20
_MOST_VARINT_BYTES = 10


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
        return DictionaryPage(nbytes[0], packed_bytes[0], start + _struct_end(header, 0))
    except IndexError:  # damaged: Arrow says how
        return None


def largest_page(file: BinaryIO, chunk: Any, least: int) -> int:
    """Return the bytes of the largest page of a column chunk once decompressed; 0 if the chunk has at most `least`.

    Reads the header of each page.
    """
    if chunk.total_uncompressed_size <= least:
        return 0
    at = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    end = at + chunk.total_compressed_size
    largest, header_bytes = 0, _HEADER_BYTES
    while at < end:
        file.seek(at)
        header = file.read(header_bytes)
        try:
            (nbytes, _), (packed_bytes, _) = (_int32_field(header, place) for place in (1, 2))
            size = _struct_end(header, 0)
        except IndexError:
            if len(header) < header_bytes or header_bytes > _MOST_HEADER_BYTES:
                break  # damaged: Arrow says how
            header_bytes *= 8  # statistics with long values
            continue
        largest, at = max(largest, nbytes), at + size + max(0, packed_bytes)
    return largest


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
        if shift >= 7 * _MOST_VARINT_BYTES:
            raise IndexError("not a page header")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _struct_end(data: bytes, at: int, depth: int = 0) -> int:
    """Return where a struct ends."""
    if depth > _MOST_DEPTH:
        raise IndexError("not a page header")
    while kind := data[at] & 0x0F:
        has_long_id = not data[at] >> 4
        at += 1
        if has_long_id:
            _, at = _varint(data, at)
        at = _value_end(data, at, kind, depth)
    return at + 1


def _value_end(data: bytes, at: int, kind: int, depth: int) -> int:
    """Return where a value of a struct ends; page headers hold no lists and no maps."""
    match kind:
        case 1 | 2:  # true, false
            return at
        case 3:
            return at + 1
        case 4 | 5 | 6:  # integers
            return _varint(data, at)[1]
        case 7:
            return at + 8
        case 8:
            size, at = _varint(data, at)
            return at + size
        case 12:
            return _struct_end(data, at, depth + 1)
    raise IndexError("not a page header")
