"""What opens at an address, a version or a time, and what is said where no table is."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.tables.opening import open_dataset
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.errors import InputError, TableNotFound
from tests.support.small_tables import a_shard, commit_shards, new_table


def test_a_misspelled_table_is_named_and_its_companions_are_not(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rejects=1)
    for path in tmp_path.glob("t.*"):
        path.rename(tmp_path / f"photos{path.name[1:]}")
    for wrong in ("photo.lance", "photos"):
        with pytest.raises(TableNotFound, match=r"no table at \S+; did you mean 'photos.lance'\?; `mlake embed"):
            open_dataset(str(tmp_path / wrong), StorageConfig())
    for other in ("zzzzzzzzz", "folder/that/is/not/there.lance"):
        with pytest.raises(TableNotFound, match=r"no table at \S+; `mlake embed CONFIG` makes one"):
            open_dataset(str(tmp_path / other), StorageConfig())


def test_what_is_no_address_or_version_is_refused_in_words(tmp_path: Path) -> None:
    uri = new_table(tmp_path).uri
    for address in ("", " ", "a\0b", b"bytes", None, 3, Path("a\0b"), "http://x/y.lance", "s3://", "s3:///x"):
        with pytest.raises(
            InputError, match=r"is no address of a table.*; pass a local path, or s3://BUCKET/NAME.lance"
        ):
            VectorTable.open(address)  # type: ignore[arg-type]
    for version in (True, 1.0, pd.NaT, dt.date(2026, 1, 1), np.datetime64("2026-01-01"), [1], np.array([1, 2])):
        with pytest.raises(InputError, match="pass a version's number, a tag, or a datetime"):
            VectorTable.open(uri, version)  # type: ignore[arg-type]
    for version in (dt.datetime.min, dt.datetime.max):
        with pytest.raises(InputError, match="too far from now"):
            VectorTable.open(uri, version)
    for version in (-1, 0, 2, 10**30, "", " ", "a b", "/", "\ud800"):
        with pytest.raises(TableNotFound, match=r"has no version .*; its newest is 1"):
            VectorTable.open(uri, version)
    for version in (dt.datetime(1971, 1, 1), pd.Timestamp(0)):
        with pytest.raises(TableNotFound, match=r"has no version of 197\d-01-01 .*; its oldest is of 2\d{3}-"):
            VectorTable.open(uri, version)


def test_a_versions_own_time_opens_it(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for name in "ab":
        commit_shards(table, a_shard(name))
    for each in table.refresh().dataset.versions():
        when = each["timestamp"]
        for same in (when, when.astimezone(dt.UTC), pd.Timestamp(when), pd.Timestamp(when).tz_localize("UTC")):
            assert VectorTable.open(table.uri, same).dataset.version == each["version"]
    assert VectorTable.open(table.uri, np.int64(2)).dataset.version == 2


def test_a_table_that_was_opened_at_a_version_stays_at_it(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    table.refresh().dataset.tags.create("june", 2)
    for version in (2, "june", dt.datetime.now()):
        assert VectorTable.open(table.uri, version).refresh().dataset.version == 2
    commit_shards(table, a_shard("b"))
    for version, newest in ((2, 2), ("june", 2), (None, 3)):
        assert VectorTable.open(table.uri, version).refresh().dataset.version == newest
