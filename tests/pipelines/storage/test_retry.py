"""Remote stores are asked again, local disks are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines.storage import retry
from pipelines.storage.retry import retry_transient


class Conflict(OSError):
    """An error that another try cannot change."""


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without making them."""
    made: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", made.append)
    return made


def failing(times: int, error: type[Exception] = OSError) -> Callable[[], int]:
    """A call that fails so many times, then returns its number."""
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise error(f"failure {calls}")
        return calls

    return call


def test_a_remote_store_is_called_again_with_growing_pauses(pauses: list[float]) -> None:
    assert retry_transient("s3://bucket/t.lance", failing(3)) == 4
    assert pauses == sorted(pauses)
    assert len(pauses) == 3
    with pytest.raises(OSError, match="failure 5"):
        retry_transient("s3://bucket/t.lance", failing(9))


def test_a_local_disk_a_final_error_and_other_errors_are_not_retried(pauses: list[float]) -> None:
    with pytest.raises(OSError, match="failure 1"):
        retry_transient("/lake/t.lance", failing(1))
    with pytest.raises(Conflict, match="failure 1"):
        retry_transient("s3://bucket/t.lance", failing(1, Conflict), final=(Conflict,))
    with pytest.raises(LookupError, match="failure 1"):
        retry_transient("s3://bucket/t.lance", failing(1, LookupError))
    assert pauses == []
