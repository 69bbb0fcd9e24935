"""Serve the page of one table over HTTP, on loopback by default.

Owns the routes and what protects the page: it takes only requests for the hosts it was started on, loads nothing from
elsewhere, and shows pictures only as thumbnails that it made itself. It changes nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.explore.explorer import MAX_CANDIDATES, MAX_K, Explorer
from schemas.errors import DependencyMissing, LakeError
from schemas.printable import printable

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise DependencyMissing(f"the page needs {error.name}; run: pip install 'matryoshka-lake[explore]'") from None

_STATIC = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_BODY = 32 << 20
_MAX_WORDS = 20_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Asked(BaseModel):
    """A question: words, or a row of the table."""

    model_config = ConfigDict(extra="forbid")
    words: str | None = Field(None, min_length=1, max_length=_MAX_WORDS)
    like: int | None = None


class _Browsed(BaseModel):
    """The first rows, before any question."""

    model_config = ConfigDict(extra="forbid")
    k: int = Field(ge=1, le=MAX_K)
    where: str = Field("", max_length=_MAX_WORDS)


class _Wanted(_Browsed):
    """The sliders."""

    query: str
    dim: int = Field(0, ge=0)
    candidates: int = Field(ge=1, le=MAX_CANDIDATES)


def serve(explorer: Explorer, *, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        explorer: The table.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        on_ready: Called with the page's address when it can be opened.

    Raises:
        OSError: The address or the port cannot be listened on.
    """
    if not host.isprintable():
        raise OSError("it is no name of a host")  # the socket would raise TypeError
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/")
        config = uvicorn.Config(application(explorer, host), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


def application(explorer: Explorer, host: str = "127.0.0.1") -> Starlette:
    """Return the ASGI application.

    Args:
        explorer: The table.
        host: Where it listens; on loopback, requests for other hosts are refused, so that no web page elsewhere can
            reach it through a name of its own.
    """
    allowed: Sequence[str] = ["127.0.0.1", "localhost", "[::1]", "::1"] if host in _LOOPBACK else ["*"]
    routes = [Route(path, _static(name, kind)) for path, (name, kind) in _STATIC.items()]
    routes += [
        Route("/api/table", _get(lambda _: explorer.describe())),
        Route("/api/rejects", _get(lambda _: explorer.rejects())),
        Route("/api/history", _get(lambda _: explorer.history())),
        Route(
            "/api/rows",
            _get(lambda request: explorer.rows(**_Browsed.model_validate(dict(request.query_params)).model_dump())),
        ),
        Route("/api/hits", _get(lambda request: explorer.hits(**_sliders(request)))),
        Route("/api/sweep", _get(lambda request: explorer.sweep(**_sliders(request, has_dim=False)))),
        Route("/api/ask", _ask(explorer), methods=["POST"]),
        Route("/thumbnails/{row:int}", _thumbnail(explorer)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False)],
        exception_handlers={LakeError: _refuse, ValidationError: _refuse_form, HTTPException: _refuse_http},
    )


def _static(name: str, kind: str) -> Callable[[Request], Response]:
    content = files("pipelines.explore").joinpath("static", name).read_bytes()
    return lambda _: Response(content, media_type=kind, headers=_HEADERS)


def _get(answer: Callable[[Request], Any]) -> Callable[[Request], Response]:
    """Return an endpoint that Starlette runs in a thread."""

    def endpoint(request: Request) -> Response:
        return _json(answer(request))

    return endpoint


def _json(content: Any, status: int = 200) -> Response:
    """Answer with JSON. Characters that would turn the page's text around, or command a terminal, become signs."""
    return JSONResponse(_printable(content), status_code=status, headers=_HEADERS)


def _printable(content: Any) -> Any:
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, Mapping):
        return {_printable(name): _printable(value) for name, value in content.items()}
    return [_printable(part) for part in content] if isinstance(content, (list, tuple)) else content


def _sliders(request: Request, *, has_dim: bool = True) -> dict[str, Any]:
    wanted = _Wanted.model_validate(dict(request.query_params)).model_dump()
    wanted["token"] = wanted.pop("query")
    if not has_dim:
        del wanted["dim"]
    return wanted


def _ask(explorer: Explorer) -> Callable[[Request], Any]:
    """Return the endpoint of questions: JSON, or the bytes of a picture."""

    async def endpoint(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY:
                raise HTTPException(413, f"a picture may have {_MAX_BODY >> 20} MB at most; drop a smaller one")
        kind = request.headers.get("content-type", "")
        if kind.startswith(("image/", "application/octet-stream")):
            token = await run_in_threadpool(explorer.ask, bytes(body))
        elif kind.startswith("application/json"):
            asked = _Asked.model_validate_json(bytes(body))
            if (asked.words is None) == (asked.like is None):
                raise HTTPException(400, "ask with words, or with a row of the table")
            if asked.words is not None:
                token = await run_in_threadpool(explorer.ask, asked.words)
            else:
                token = await run_in_threadpool(explorer.like, asked.like or 0)
        else:
            raise HTTPException(415, "send words as JSON, or a picture as image/…")
        return _json({"query": token})

    return endpoint


def _thumbnail(explorer: Explorer) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        png = explorer.thumbnail(request.path_params["row"])
        if png is None:
            raise HTTPException(404, "this row has no picture that can be shown")
        return Response(png, media_type="image/png", headers={**_HEADERS, "Cache-Control": "private, max-age=3600"})

    return endpoint


def _refuse(_: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400)


def _refuse_form(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return _json({"error": f"{where}: {first['msg']}"}, 400)


def _refuse_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)
