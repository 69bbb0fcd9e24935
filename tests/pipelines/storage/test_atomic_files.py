"""A file is there whole or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.storage.atomic_files import atomic_path


def test_a_file_appears_when_the_block_ends_in_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "report.html"
    for text in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with atomic_path(path) as unfinished:
            unfinished.write_text(text)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def break_off() -> None:
        with atomic_path(path) as unfinished:
            unfinished.write_text("half")
            raise LookupError

    with pytest.raises(LookupError):
        break_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"

    def write(number: int) -> None:
        with atomic_path(path) as unfinished:
            unfinished.write_text(str(number) * 10_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    text = path.read_text()
    assert text == text[0] * 10_000
    assert list(tmp_path.iterdir()) == [path]
