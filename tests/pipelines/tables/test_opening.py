"""What is said where no table is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.tables.opening import open_dataset
from schemas.config import StorageConfig
from schemas.errors import TableNotFound
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
