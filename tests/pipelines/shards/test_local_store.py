"""The local disk: what is found, and what changed since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.shards.local_store import LocalStore
from pipelines.shards.names import NamePattern
from schemas.errors import ShardNotFound, ShardUnreadable


def test_files_are_found_by_name_glob_and_folder(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("a.tar", "d/b.tar"):
        (tmp_path / name).write_bytes(b"x")
    store, a = LocalStore(), str(tmp_path / "a.tar")
    assert list(store.stat([a, str(tmp_path / "no")])) == [a]
    assert sorted(file.uri for file in store.walk(NamePattern(str(tmp_path)))) == [a, str(tmp_path / "d" / "b.tar")]
    assert [file.uri for file in store.walk(NamePattern(str(tmp_path), "d*"))] == [str(tmp_path / "d" / "b.tar")]
    assert store.neighbours(a) == ["a.tar", "d"]


def test_a_file_that_changed_or_is_gone_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"x")
    store = LocalStore()
    file = store.stat([str(path)])[str(path)]
    os.utime(path, (1, 1))
    with pytest.raises(ShardUnreadable, match="has changed since it was listed"):
        store.open(file)
    path.unlink()
    with pytest.raises(ShardNotFound, match="is gone since it was listed"):
        store.open(file)
