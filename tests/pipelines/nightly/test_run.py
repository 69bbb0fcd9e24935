"""Nights of a small lake in this process, without Ray."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jobs.__main__ import main
from pipelines.tables.table import VectorTable
from tests.chaos.lake import Lake, contents


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path, random.Random(0))


def test_a_night_completes_an_erasure_that_was_killed_and_publishes_what_is_new(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lake.night().state == "published"
    gone = min(lake.truth())
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.nightly.erase.publish", lambda *_: (_ for _ in ()).throw(OSError("no answer")))
        assert main(["delete", lake.table, "--where", f"id = '{gone}'"]) == 1
    lake.erased.add(gone)
    lake.add()
    lake.let_a_day_pass()
    assert lake.night().state == "published"
    assert contents(VectorTable.open(lake.table, "prod")) == lake.truth()
