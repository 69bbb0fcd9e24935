"""Reading what a test has printed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Printed = Callable[[], str]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Printed:
    """Return all that was printed since the last call, with single spaces instead of line breaks."""
    monkeypatch.setenv("COLUMNS", "300")

    def read() -> str:
        out, err = capsys.readouterr()
        return " ".join((out + err).split())

    return read
