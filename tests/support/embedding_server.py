"""A server of vectors on loopback, which misbehaves as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

DIM = 8


def vector_of(text: str) -> list[float]:
    """Return the vector that the server gives to a text."""
    return np.random.default_rng(list(text.encode())).standard_normal(DIM).tolist()


def texts_of(body: dict[str, Any]) -> list[str]:
    """Return the texts of a request."""
    if "requests" in body:
        return [request["content"]["parts"][0]["text"] for request in body["requests"]]
    return body.get("input") or body["texts"]


class Server(ThreadingHTTPServer):
    """Answers as OpenAI, Voyage, Cohere or Gemini do; `faults` are used up one a request, `refuses` is for all.

    A text has a token for each of its words. Gemini's vectors are not of unit length where fewer dims are asked for.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.refuses = 0
        self.reports_usage = True
        self.most_words = 1_000
        self.billed = 0
        self.vector_of: Callable[[str], list[float]] = vector_of
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.keys.append(self.headers.get("Authorization") or self.headers.get("x-goog-api-key", ""))
            fault = self.server.faults.pop(0) if self.server.faults else ""
        texts = texts_of(body)
        if self.server.refuses:
            return self._answer(self.server.refuses, {"error": "no such deployment"})
        if "bad" in texts:
            return self._answer(400, {"error": "this input is not allowed"})
        is_cut = body.get("truncation") is True or body.get("truncate") == "END"
        if not is_cut and max(len(text.split()) for text in texts) > self.server.most_words:
            return self._answer(400, {"error": "this input is too long"})
        if fault.isdigit():
            return self._answer(int(fault), {"error": "later"}, {"Retry-After": "0"})
        vectors = [self.server.vector_of(text) for text in texts]
        if fault == "nan":
            vectors[0][0] = None  # type: ignore[call-overload]
        if fault == "width":
            vectors = [vector[:-1] for vector in vectors]
        tokens = sum(min(len(text.split()), self.server.most_words) for text in texts)
        with self.server.lock:
            self.server.billed += tokens
        is_said = self.server.reports_usage
        if "texts" in body:
            meta = {"meta": {"billed_units": {"input_tokens": tokens}}} if is_said else {}
            return self._answer(200, {"embeddings": {"float": vectors}} | meta)
        if "requests" in body:
            dims = body["requests"][0].get("outputDimensionality", DIM)
            meta = {"usageMetadata": {"promptTokenCount": tokens}} if is_said else {}
            return self._answer(200, {"embeddings": [{"values": vector[:dims]} for vector in vectors]} | meta)
        data = [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]
        if fault == "reordered":
            data.reverse()
        if fault == "fewer":
            data = data[1:]
        if fault == "twice":
            data[0]["index"] = 1
        usage = {"usage": {"total_tokens": tokens}} if is_said else {}
        return self._answer(200, {"data": data} | usage, cut=fault == "cut")

    def _answer(self, status: int, said: object, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) // 2 if cut else len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server in a thread."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
