"""Old generations and versions go, what anybody needs stays, and many nights leave a lake no larger than its data."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from pipelines.storage.addresses import sibling
from pipelines.storage.folders import list_folders
from pipelines.tables import retention
from pipelines.tables.create import create_table
from pipelines.tables.generations import PublishRequest, describe, generations_of, publish, rollback
from pipelines.tables.maintenance import compact_table, removed_share
from pipelines.tables.publication_log import generation_uri, read_log
from pipelines.tables.retention import Freed, remove_leftovers, retain
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from pipelines.tables.tags import remove_tag, set_tag
from schemas.columns import COMPANIONS
from schemas.config import StorageConfig
from schemas.errors import TableNotFound
from tests.support.s3 import S3Server
from tests.support.small_tables import KEPT, SPACE, a_shard, changed, commit_shards, contents, expected

_NOW = dt.timedelta(0)


def keep(
    base: str, storage: StorageConfig, *, newest: int | None, grace: dt.timedelta = _NOW, working_on: int = 6
) -> Freed:
    return retain(
        base,
        working_on,
        storage,
        generations=newest,
        versions=1,
        reader_grace=grace,
        alive_for=dt.timedelta(minutes=15),
    )


def make_generations(base: str, storage: StorageConfig, numbers: range) -> list[VectorTable]:
    """Make generations of a shard each, publish each, and give each a table beside it."""
    made = []
    for number in numbers:
        table = create_table(generation_uri(base, number), SPACE, KEPT, storage)
        commit_shards(table, a_shard(f"s{number}"))
        publish(base, describe(table.refresh(), number), storage, PublishRequest())
        made.append(table)
    return made


@pytest.mark.parametrize("store", ["disk", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_generation_goes_when_nobody_needs_it(
    store: str, tmp_path: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, base = StorageConfig(), str(tmp_path / "t.lance")
    if store == "s3":
        storage, base = s3_server.storage, f"s3://{bucket}/t.lance"
    tables = make_generations(base, storage, range(1, 7))
    stranger = create_table(generation_uri(base, 3).replace(".lance", ".mine.lance"), SPACE, KEPT, storage)
    # 7 days for those that had `prod` open; without `generations`, all stay.
    assert keep(base, storage, newest=1, grace=dt.timedelta(days=7)).generations == ()
    assert keep(base, storage, newest=None).generations == ()
    # A tag, a run at work, and what the night works on.
    set_tag(tables[1].uri, "paper", tables[1].refresh().dataset.version, storage)
    run = RunRecord(tables[2], "embed", {})
    freed = keep(base, storage, newest=1, working_on=4)
    assert freed.generations == (5,)
    assert freed.nbytes > 1000
    assert generations_of(base, storage) == [1, 2, 3, 4, 6]
    remove_tag(tables[1].uri, "paper", storage)
    run.end("complete", {})
    # A crash after the list of versions is gone: nobody can open it, and the next call removes the rest.
    with monkeypatch.context() as patched:
        patched.setattr(retention, "_folders", lambda base, storage: iter(()))
        assert keep(base, storage, newest=1).generations == (2, 3, 4)
    assert generations_of(base, storage) == [1, 6]
    assert remove_leftovers(base, storage) > 1000
    left = set(list_folders(base.removesuffix(".lance") + ".g", storage))
    own = {tables[5].uri, *(sibling(tables[5].uri, name) for name in COMPANIONS)}
    assert stranger.uri in left
    assert store == "s3" or {folder for folder in left if ".mine." not in folder} <= own  # this S3 shows empty folders
    assert remove_leftovers(base, storage) == 0
    # What is there reads as before, a rollback to what is gone is refused, and the first generation stays.
    assert contents(VectorTable.open(base, "prod", storage)) == expected(a_shard("s6"))
    assert contents(VectorTable.open(base, storage=storage)) == expected(a_shard("s1"))
    with pytest.raises(TableNotFound):
        rollback(base, storage, to=2)
    with pytest.raises(TableNotFound, match="was removed"):
        set_tag(base, "gone", 1, storage)
    assert VectorTable.open(base, "prod", storage).uri == tables[5].uri


def test_a_rollback_that_races_with_the_removal_wins_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, storage = str(tmp_path / "t.lance"), StorageConfig()
    make_generations(base, storage, range(1, 4))
    shown, update = read_log(base, storage)[1].state, retention.update_config
    assert shown is not None

    def tag_before(uri: str, values: dict[str, str], storage: StorageConfig) -> None:
        set_tag(uri, "published-4", shown.version, storage)
        update(uri, values, storage)

    with monkeypatch.context() as patched:
        patched.setattr(retention, "update_config", tag_before)
        assert keep(base, storage, newest=1).generations == ()
    assert rollback(base, storage, to=2).number == 4

    rollback(base, storage, to=3)
    with monkeypatch.context() as patched:
        patched.setattr(retention, "_remove_files", lambda *_: 0)
        patched.setattr(retention, "expire_table", lambda *_, **__: 0)
        assert keep(base, storage, newest=1).generations == (2,)
    with pytest.raises(TableNotFound, match="is being removed"):
        rollback(base, storage, to=2)
    assert keep(base, storage, newest=1).generations == ()  # the tag of the refused rollback is ahead of the log


def test_many_nights_leave_a_lake_no_larger_than_its_data(tmp_path: Path) -> None:
    table = create_table(str(tmp_path / "t.lance"), SPACE, KEPT)
    shards = [a_shard(f"s{number}") for number in range(5)]
    sizes = []
    for night in range(16):
        shards[night % 5] = changed(shards[night % 5])
        commit_shards(table, *(shards if night == 0 else shards[night % 5 : night % 5 + 1]), rows=400)
        table = table.refresh()
        if removed_share(table) > 0.1:
            compact_table(table)
            table = table.refresh()
        publish(table.uri, describe(table, 1), table.storage, PublishRequest())
        keep(table.uri, table.storage, newest=1, working_on=1)
        sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))
    assert contents(table) == expected(*shards, rows=400)
    assert max(sizes[8:]) < 1.5 * min(sizes[:5]), sizes
