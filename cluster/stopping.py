"""Stopping on request: once lets what is in flight finish, twice stops now."""

from __future__ import annotations

import signal
from types import FrameType


class Stop:
    """While entered, the first SIGINT or SIGTERM sets `asked`; the second raises KeyboardInterrupt.

    Enter it after Ray is connected, which installs handlers of its own.
    """

    def __init__(self) -> None:
        """Nothing is asked yet."""
        self.asked = False

    def __enter__(self) -> Stop:
        """Install the handlers."""
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
