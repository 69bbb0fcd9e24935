"""Decompression of forward-only byte streams, from which tar and JSONL are read.

Owns the difference between a stream that ended and one that was cut off.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from pipelines.shards.contents import HEAD_BYTES, foreign
from pipelines.storage.addresses import named_path

_CHUNK_BYTES = 256 << 10
# Damage destroys the output of its whole piece, so pieces are small.
_PIECE_BYTES = 1024
# `zstd --ultra --long=31` looks back 2 GiB, and a reader must hold as much. Only a file that asks for it takes it.
_MAX_WINDOW_BYTES = 1 << 31


class ByteStream(Protocol):
    """A file that can be read forward."""

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes; fewer only at the end."""
        ...


class Damage(Exception):
    """Damaged data in a shard. `reason` is its short class, for counting, such as `corrupt_shard`."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep the short class and the exact cause."""
        self.reason = reason
        super().__init__(message)


class _Decoder(Protocol):
    """One gzip member or zstd frame: the common interface of zlib and zstandard."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Decompressed:
    """A compressed stream, read as plain bytes; data before a damage is returned before it is raised."""

    def __init__(self, stream: ByteStream, new_decoder: Callable[[], _Decoder], what: str) -> None:
        self._stream, self._new_decoder, self._what = stream, new_decoder, what
        self._is_first = True
        self._decoder: _Decoder | None = new_decoder()
        self._packed, self._at = b"", 0
        self._plain: list[bytes] = []
        self._plain_bytes = 0
        self._damage: Damage | None = None

    def read(self, size: int, /) -> bytes:
        while self._plain_bytes < size and self._damage is None and self._has_input():
            self._decode_piece()
        if self._damage is not None and not self._plain_bytes:
            raise self._damage
        plain = b"".join(self._plain)
        self._plain = [plain[size:]]
        self._plain_bytes = len(self._plain[0])
        return plain[:size]

    def _has_input(self) -> bool:
        if self._at == len(self._packed):
            self._packed, self._at = self._stream.read(_CHUNK_BYTES), 0
            if not self._packed and self._decoder is not None:
                self._damage = Damage("truncated_shard", "breaks off within its compressed data")
        return bool(self._packed)

    def _decode_piece(self) -> None:
        piece = self._packed[self._at : self._at + _PIECE_BYTES]
        self._at += len(piece)
        if self._decoder is None:
            piece = piece.lstrip(b"\0")  # padding behind a member
            if not piece:
                return
            self._decoder = self._new_decoder()
        try:
            plain = self._decoder.decompress(piece)
        except (zlib.error, zstandard.ZstdError) as error:
            said = foreign(self._packed[:HEAD_BYTES], self._what) if self._is_first else ""
            self._damage = Damage("corrupt_shard", said or f"has damaged compressed data: {error}")
            return
        self._is_first = False
        self._plain.append(plain)
        self._plain_bytes += len(plain)
        if self._decoder.eof:
            self._at -= len(self._decoder.unused_data)
            self._decoder = None


def _gzip() -> _Decoder:
    return zlib.decompressobj(wbits=31)


def _zstd() -> _Decoder:
    return zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()


_DECODERS = {
    ".gz": (_gzip, "gzip data"),
    ".tgz": (_gzip, "gzip data"),
    ".zst": (_zstd, "zstd data"),
    ".tzst": (_zstd, "zstd data"),
}


def decompress(stream: ByteStream, uri: str) -> ByteStream:
    """Decompress a stream if the address ends in .gz, .tgz, .zst or .tzst.

    `read` of the returned stream raises Damage where the compressed data is cut off or fails its checksum.
    """
    name = named_path(uri).lower()
    found = next((each for suffix, each in _DECODERS.items() if name.endswith(suffix)), None)
    return stream if found is None else _Decompressed(stream, *found)
