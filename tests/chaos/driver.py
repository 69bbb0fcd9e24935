"""Serve as a driver process: import everything once, then run the `main` of `python -m jobs` for each request.

Starting Python and importing torch takes longer than all else in a trial; apart from that this is `python -m jobs`.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import jobs.embed
from jobs.__main__ import main


def serve() -> None:
    """Read requests from stdin, `{"argv": […], "log": path}`; answer each with its exit code on stdout."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as `python -m jobs` does
    answers = os.fdopen(os.dup(1), "w")
    assert jobs.embed
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        with open(request["log"], "ab") as log:  # noqa: PTH123 - a descriptor is wanted
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        try:
            code = main(request["argv"])
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        print(code, file=answers, flush=True)


if __name__ == "__main__":
    serve()
