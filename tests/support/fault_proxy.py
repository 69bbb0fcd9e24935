"""A proxy in front of an S3 server that injects network faults, chosen by a seeded random generator.

The faults, and where each happens in an exchange:

    error_500, error_503   the proxy answers with an error; the server does not see the request
    reset_request          the connection is reset before the server sees the request
    lost_answer            the server carries the request out, and the connection is reset before its answer
    reset_answer           the connection is reset at a random byte of the answer
    stall                  the answer stops at a random byte; the connection stays open for a while
    slow                   the answer comes at a few bytes per second
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

FAULTS = ("error_500", "error_503", "reset_request", "lost_answer", "reset_answer", "stall", "slow")
_ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>made by the fault proxy</Message></Error>"
_CODES = {"error_500": (b"500 Internal Server Error", b"InternalError"), "error_503": (b"503 Slow Down", b"SlowDown")}
_PIECE = 64 << 10


@dataclass(frozen=True)
class Faults:
    """Which faults are injected, and how often.

    Attributes:
        rate: Share of requests with a fault.
        kinds: Faults to choose from.
        seed: Seed of the random generator.
        stall_s: Seconds that a stalled answer stays open.
        slow_bytes_per_s: Pace of a slow answer.
    """

    rate: float = 0.2
    kinds: Sequence[str] = FAULTS
    seed: int = 0
    stall_s: float = 30.0
    slow_bytes_per_s: int = 200_000


class FaultProxy:
    """A proxy on the loopback address that runs while its `with` block lasts.

    Attributes:
        faults: May be replaced at any time.
        counts: Number of requests by fault; `none` counts those without one.
        nbytes: Bytes of all requests and answers that were passed on.
    """

    def __init__(self, target: str, faults: Faults) -> None:
        """Prepare a proxy for the server at the URL `target`."""
        self._target = urlsplit(target)
        self.faults = faults
        self._random = random.Random(faults.seed)
        self.counts: Counter[str] = Counter()
        self.nbytes = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        """Start to listen."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20), self._loop
        ).result()
        port = self._server.sockets[0].getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Cut all connections."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            server, upstream = await asyncio.open_connection(self._target.hostname, self._target.port, limit=1 << 20)
            while await self._exchange(client, answer, server, upstream):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for writer in (answer, upstream):
                if writer is not None:
                    writer.transport.abort()

    async def _exchange(
        self,
        client: asyncio.StreamReader,
        answer: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
    ) -> bool:
        """Pass on one request and its answer; return False if the connection has to end."""
        head = await client.readuntil(b"\r\n\r\n")
        headers = _headers(head)
        if "expect" in headers:
            answer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
        body = await _body(client, headers)
        fault = self._roll()
        if fault in _CODES:
            status, code = _CODES[fault]
            text = _ERROR % code
            answer.write(
                b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % (status, len(text))
            )
            answer.write(b"" if head.startswith(b"HEAD") else text)
            await answer.drain()
            return True
        if fault == "reset_request":
            _reset(answer)
            return False
        upstream.write(head + body)
        await upstream.drain()
        reply = await server.readuntil(b"\r\n\r\n")
        has_body = not head.startswith(b"HEAD") and reply.split(b" ", 2)[1] not in (b"204", b"304")
        content = await _body(server, _headers(reply)) if has_body else b""
        self.nbytes += len(head) + len(body) + len(reply) + len(content)
        return await self._answer(answer, reply + content, fault)

    async def _answer(self, answer: asyncio.StreamWriter, reply: bytes, fault: str) -> bool:
        if fault == "lost_answer":
            _reset(answer)
            return False
        if fault in ("reset_answer", "stall"):
            answer.write(reply[: self._random.randrange(len(reply))])
            await answer.drain()
            if fault == "stall":
                await asyncio.sleep(self.faults.stall_s)
            _reset(answer)
            return False
        piece = max(1, self.faults.slow_bytes_per_s // 10) if fault == "slow" else _PIECE
        for start in range(0, len(reply), piece):
            answer.write(reply[start : start + piece])
            await answer.drain()
            if fault == "slow":
                await asyncio.sleep(0.1)
        return True

    def _roll(self) -> str:
        fault = self._random.choice(self.faults.kinds) if self._random.random() < self.faults.rate else "none"
        self.counts[fault] += 1
        return fault


def _headers(head: bytes) -> dict[str, str]:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.decode().lower(): value.decode().strip() for name, _, value in lines}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    pieces = []
    while True:
        size = await reader.readline()
        chunk = await reader.readexactly(int(size.split(b";")[0], 16) + 2)
        pieces += [size, chunk]
        if chunk == b"\r\n":
            return b"".join(pieces)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Cut a connection with RST, so that the peer sees an error and not an end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
