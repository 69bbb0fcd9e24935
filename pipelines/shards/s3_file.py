"""An S3 object as a file: parallel ranged gets ahead of the reader, resumed where the network fails.

Owns the retries of reads, and the difference between transient and permanent failures.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError

from pipelines.shards.store_protocol import File, changed, gone
from pipelines.storage.addresses import split_s3
from schemas.errors import ConfigError, LakeError, ShardNotFound, ShardUnreadable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LONGEST_PAUSE_S = 10.0
_PIECE_BYTES = 16 << 10
_SLOW_BYTES_PER_S = 16 << 10
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class ReadAhead:
    """How far ahead a file is fetched.

    Attributes:
        part_bytes: Bytes of one ranged get.
        ahead: Parts in flight ahead of the reader, while it reads forward.
        held: Most parts in memory.
    """

    part_bytes: int
    ahead: int
    held: int


@dataclass(frozen=True)
class FetchRetry:
    """When a ranged get is tried again.

    Attributes:
        tries: Failures in a row, without a byte between them, after which the error is raised.
        first_pause_s: Seconds before the second try; each pause is twice as long as the one before.
        slow_after_s: Seconds after which a get that delivers too few bytes a second counts as failed.
    """

    tries: int = 6
    first_pause_s: float = 0.2
    slow_after_s: float = 10.0


FORWARD = ReadAhead(part_bytes=4 << 20, ahead=8, held=10)
SCATTERED = ReadAhead(part_bytes=1 << 20, ahead=2, held=40)


class S3File(io.RawIOBase):
    """An object as a seekable file, fetched in parts by several connections ahead of the reader.

    Memory is bounded by `ReadAhead.held` parts. Each get asks for the ETag that was listed, so bytes of two versions of
    an object are never mixed.
    """

    def __init__(self, client: S3Client, file: File, read_ahead: ReadAhead, retry: FetchRetry = FetchRetry()) -> None:
        """Open the object; nothing is fetched before the first read."""
        self._client, (self._bucket, self._key) = client, split_s3(file.uri)
        self._file, self._read_ahead, self._retry = file, read_ahead, retry
        self._position = 0
        self._parts: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._pool = ThreadPoolExecutor(read_ahead.ahead + 1, thread_name_prefix="s3")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position, in bytes."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Return the next `size` bytes; fewer only at the end.

        Raises:
            ShardNotFound: The object is gone.
            ShardUnreadable: It has changed since it was listed, or S3 keeps failing.
        """
        end = self._file.size if size < 0 else min(self._file.size, self._position + size)
        pieces = []
        while self._position < end:
            part_bytes = self._read_ahead.part_bytes
            number, start = divmod(self._position, part_bytes)
            piece = self._part(number)[start : start + end - self._position]
            pieces.append(piece)
            self._position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Cancel the gets in flight."""
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._parts.clear()
        super().close()

    def _part(self, number: int) -> bytes:
        # The reader reads forward if this part, or the one before it, was read recently.
        is_forward = number == 0 or number in self._parts or number - 1 in self._parts
        last = -(-self._file.size // self._read_ahead.part_bytes) - 1
        until = min(last, number + self._read_ahead.ahead) if is_forward else number
        for each in range(number, until + 1):
            if each not in self._parts:
                self._parts[each] = self._pool.submit(self._fetch, each)
            self._parts.move_to_end(each)
        while len(self._parts) > self._read_ahead.held:
            self._parts.popitem(last=False)[1].cancel()
        return self._parts[number].result()

    def _fetch(self, number: int) -> bytes:
        """Fetch one part; resume where a connection broke."""
        start = number * self._read_ahead.part_bytes
        end = min(self._file.size, start + self._read_ahead.part_bytes)
        data = bytearray()
        tries = 0
        while start + len(data) < end:
            before = len(data)
            try:
                self._get(start + len(data), end, data)
            except (BotoCoreError, ClientError, OSError) as error:
                tries = 0 if len(data) > before else tries + 1
                if tries >= self._retry.tries or not is_transient(error):
                    raise self._explain(error) from error
                pause_s = min(_LONGEST_PAUSE_S, self._retry.first_pause_s * 2**tries)
                time.sleep(pause_s * random.uniform(0.5, 1))
        return bytes(data)

    def _get(self, start: int, end: int, data: bytearray) -> None:
        """Append the bytes from `start` to `end`, or as many as arrive before the connection breaks."""
        found = self._client.get_object(
            Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{end - 1}", IfMatch=f'"{self._file.etag}"'
        )
        began = time.monotonic()
        with closing(found["Body"]) as body:
            if found["ETag"].strip('"') != self._file.etag:
                raise changed(self._file.uri)
            if found["ContentLength"] != end - start:
                raise ShardUnreadable(f"{self._file.uri}: the store returned another range than was requested")
            got = 0
            while piece := body.read(_PIECE_BYTES):
                data += piece
                got += len(piece)
                seconds = time.monotonic() - began
                if seconds > self._retry.slow_after_s and got < seconds * _SLOW_BYTES_PER_S:
                    raise TimeoutError(f"{got} bytes in {seconds:.0f} s")

    def _explain(self, error: Exception) -> LakeError:
        match _status(error):
            case 404:
                return gone(self._file.uri)
            case 412 | 416:
                return changed(self._file.uri)
        return explain(error, self._file.uri)


def is_transient(error: Exception) -> bool:
    """Tell whether another try may succeed."""
    if isinstance(error, ClientError):
        return _status(error) in _TRANSIENT_STATUS
    return not isinstance(error, NoCredentialsError)


def explain(error: Exception, uri: str) -> LakeError:
    """Turn an error of boto3 into one that says what to do."""
    if isinstance(error, NoCredentialsError):
        return ConfigError(
            f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.profile"
        )
    if isinstance(error, ParamValidationError):
        return ConfigError(f"{uri} names no bucket that S3 allows: write s3://BUCKET/KEY, the bucket in small letters")
    status = _status(error)
    if status == 404:
        return ShardNotFound(f"{uri} is not there: {error}")
    if status == 403:
        return ShardUnreadable(f"{uri}: S3 refuses access to these credentials: {error}")
    return ShardUnreadable(f"{uri}: S3 keeps failing: {error}")


def _status(error: Exception) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"]) if isinstance(error, ClientError) else 0
