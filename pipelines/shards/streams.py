"""Forward-only byte streams: what tar and JSONL are read from, decompressed on the way where the name says so.

Owns decompression and the difference between a stream that ended and one that broke off.
"""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

# A broken stream loses the piece it breaks in, so pieces are small.
_PIECE_BYTES = 1024
_CODECS = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".tzst": "zstd"}


class ByteStream(Protocol):
    """What a reader needs of a file."""

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes; fewer only at the end."""
        ...


class Damage(Exception):
    """A shard that breaks off or is corrupt midway; `reason` is `truncated_shard` or `corrupt_shard`."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep the short class and the exact cause."""
        self.reason = reason
        super().__init__(message)


class _Decompressed:
    """A compressed stream, read as plain bytes; all that precedes a damage is delivered before it is raised."""

    def __init__(self, stream: ByteStream, codec: str) -> None:
        self._plain = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec)
        self._damage: Damage | None = None

    def read(self, size: int, /) -> bytes:
        pieces: list[bytes] = []
        have = 0
        while have < size and self._damage is None:
            try:
                piece = self._plain.read(min(_PIECE_BYTES, size - have))
            except OSError as error:
                cut = "runcated" in str(error)
                self._damage = Damage(
                    "truncated_shard" if cut else "corrupt_shard", f"the compression is broken: {error}"
                )
                break
            if not piece:
                break
            pieces.append(piece)
            have += len(piece)
        if self._damage is not None and not pieces:
            raise self._damage
        return b"".join(pieces)


def decompressed(stream: ByteStream, uri: str) -> ByteStream:
    """Return the stream, decompressed if the address ends in .gz, .tgz, .zst or .tzst.

    The stream returned raises Damage from `read` where the compressed data is cut off or fails its checksum.
    """
    codec = next((codec for suffix, codec in _CODECS.items() if uri.lower().endswith(suffix)), None)
    return stream if codec is None else _Decompressed(stream, codec)
