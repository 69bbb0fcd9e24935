"""Serve as a driver process: import everything once, then run the `main` of `python -m jobs` for each request.

Starting Python and importing torch takes longer than all else in a trial; apart from that this is `python -m jobs`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

import jobs.embed
from jobs.__main__ import main


def serve() -> None:
    """Read requests from stdin, `{"argv": […], "log": path}`; answer each with its exit code on stdout."""
    answers = os.fdopen(os.dup(1), "w")
    assert jobs.embed
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        with open(request["log"], "ab") as log:  # noqa: PTH123 - a descriptor is wanted
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        code = 70
        try:
            _on_signals(signal.default_int_handler)  # as `python -m jobs` does
            code = main(request["argv"])
        except BaseException:
            sys.excepthook(*sys.exc_info())
        with contextlib.suppress(KeyboardInterrupt):  # one that comes when the job is over
            _on_signals(signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        print(code, file=answers, flush=True)


def _on_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


if __name__ == "__main__":
    serve()
