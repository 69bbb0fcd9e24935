"""Of several writers exactly one makes a file, on a disk and in S3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from pipelines.storage.small_files import create_file, list_files, read_file, remove_file, replace_file
from schemas.config import StorageConfig
from schemas.errors import ConfigError
from tests.support.s3 import S3Server


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, StorageConfig]:
    if request.param == "disk":
        return str(tmp_path / "new" / "folder"), StorageConfig()
    server: S3Server = request.getfixturevalue("s3_server")
    return f"s3://{request.getfixturevalue('bucket')}/a/b", server.storage


def test_one_writer_makes_a_file_and_others_find_it(place: tuple[str, StorageConfig]) -> None:
    folder, storage = place
    assert list_files(folder, storage) == []
    assert read_file(f"{folder}/1", storage) is None
    for name in "12":
        with ThreadPoolExecutor(8) as pool:
            made = list(
                pool.map(partial(create_file, f"{folder}/{name}", storage=storage), [b"%d" % i for i in range(8)])
            )
        assert made.count(True) == 1
        assert read_file(f"{folder}/{name}", storage) == b"%d" % made.index(True)
    assert [file.name for file in list_files(folder, storage)] == ["1", "2"]
    replace_file(f"{folder}/1", b"again", storage)
    assert read_file(f"{folder}/1", storage) == b"again"
    remove_file(f"{folder}/1", storage)
    remove_file(f"{folder}/1", storage)
    assert [file.name for file in list_files(folder, storage)] == ["2"]


def test_other_stores_are_refused() -> None:
    with pytest.raises(ConfigError, match="local disk or in S3"):
        create_file("gs://bucket/1", b"", StorageConfig())
