"""What is published stays as it is for its readers; `prod` moves in one compare-and-swap."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from pipelines.tables.create import create_table
from pipelines.tables.generations import (
    READER_GRACE,
    PublishRequest,
    describe,
    fence_off,
    needed_versions,
    publish,
    repair_tags,
    rollback,
)
from pipelines.tables.maintenance import compact_table, expire_table
from pipelines.tables.publication_log import generation_uri, read_log, resolve_prod, table_of
from pipelines.tables.table import VectorTable
from pipelines.tables.tags import read_tags, remove_tag
from schemas.config import StorageConfig
from schemas.errors import PublicationConflict, TableError, TableNotFound
from schemas.publications import Publication, PublishedState
from tests.support.s3 import S3Server
from tests.support.small_tables import (
    KEPT,
    SPACE,
    a_shard,
    commit_shards,
    expected,
    new_table,
    race,
)

LOCAL = StorageConfig()


def publish_newest(
    table: VectorTable, generation: int = 1, base: str = "", request: PublishRequest | None = None
) -> Publication:
    state = describe(table.refresh(), generation)
    return publish(base or table.uri, state, table.storage, request or PublishRequest())


def ids(table: VectorTable) -> set[str]:
    return set(table.dataset.to_table(columns=["id"])["id"].to_pylist())


def test_readers_of_prod_see_a_publication_and_stay_there(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    with pytest.raises(TableNotFound, match="nothing is published there"):
        VectorTable.open(table.uri, "prod")
    assert publish_newest(table).number == 1
    commit_shards(table, a_shard("b"))
    reader = VectorTable.open(table.uri, "prod")
    assert ids(reader) == expected(a_shard("a")).keys()
    assert reader.publication is not None
    publish_newest(table)
    compact_table(table)
    expire_table(table.refresh(), dt.timedelta(0))
    assert ids(reader) == expected(a_shard("a")).keys()
    assert ids(VectorTable.open(table.uri, "prod")) == expected(a_shard("a"), a_shard("b")).keys()
    # A reader that opens the older one by its version finds it until the grace is over.
    expire_table(table.refresh(), dt.timedelta(0), reader_grace=dt.timedelta(0))
    with pytest.raises(TableNotFound):
        VectorTable.open(table.uri, reader.dataset.version)


def test_a_rollback_shows_the_publication_before_and_is_one_more_record(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for name in "ab":
        commit_shards(table, a_shard(name))
        publish_newest(table)
    record = rollback(table.uri, LOCAL)
    assert (record.number, record.restores) == (3, 1)
    assert ids(VectorTable.open(table.uri, "prod")) == expected(a_shard("a")).keys()
    assert rollback(table.uri, LOCAL, 2).restores == 2
    with pytest.raises(TableError, match="no publication 9"):
        rollback(table.uri, LOCAL, 9)
    assert [each.action for each in read_log(table.uri, LOCAL)] == ["publish", "publish", "rollback", "rollback"]


def test_an_id_is_used_once_and_a_moved_head_is_a_conflict(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    once = PublishRequest(id="night-7")
    first = publish_newest(table, request=once)
    assert publish_newest(table, request=once) == first
    commit_shards(table, a_shard("b"))
    with pytest.raises(PublicationConflict, match="'night-7' was used for publication 1"):
        publish_newest(table, request=once)
    assert fence_off(table.uri, LOCAL, "r", "took over") == 2
    with pytest.raises(PublicationConflict, match="was moved since this run began"):
        publish_newest(table, request=PublishRequest(expected_head=1))
    published = resolve_prod(table.uri, LOCAL)
    assert published is not None
    assert published.state.version == first.state.version if first.state else False


def publish_many(number: int, uri: str) -> int:
    table, made = VectorTable.open(uri), 0
    for _ in range(5):
        try:
            publish_newest(table)
            made += 1
        except PublicationConflict:
            pass
    return made


def test_racing_publishers_each_make_their_own_record(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    made = sum(race(2, publish_many, table.uri))
    log = read_log(table.uri, LOCAL)
    assert [record.number for record in log] == list(range(1, made + 1))
    assert len({record.id for record in log}) == made


def test_a_later_generation_stands_beside_the_table(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    publish_newest(table)
    other = create_table(generation_uri(table.uri, 2), SPACE.model_copy(update={"revision": "2"}), KEPT)
    commit_shards(other, a_shard("b"))
    assert table_of(other.uri, LOCAL) == (table.uri, 2)
    assert table_of(table.uri, LOCAL) == (table.uri, 1)
    publish_newest(other, 2, table.uri)
    reader = VectorTable.open(table.uri, "prod")
    assert (reader.uri, ids(reader)) == (other.uri, expected(a_shard("b")).keys())
    assert reader.space != table.space
    assert "prod" in read_tags(other.uri, LOCAL)
    assert "prod" not in read_tags(table.uri, LOCAL)
    expire_table(other.refresh(), dt.timedelta(0))
    rollback(table.uri, LOCAL)
    assert VectorTable.open(table.uri, "prod").uri == table.uri
    # A folder that is named like a generation, of a table that never published, is a table of its own.
    assert table_of(str(tmp_path / "u.g2.lance"), LOCAL) == (str(tmp_path / "u.g2.lance"), 1)


def test_a_tag_that_lags_is_repaired(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    publish_newest(table)
    remove_tag(table.uri, "prod", LOCAL)
    table.refresh().dataset.tags.create("mine", 1)
    repair_tags(table.uri, LOCAL)
    assert read_tags(table.uri, LOCAL).keys() == {"mine", "prod", "published-1"}


def test_a_log_by_a_stranger_names_no_other_table(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    publish_newest(table)
    path = Path(table.uri) / "_publications" / "00000001.json"
    record = json.loads(path.read_text())
    for change, said in (
        ({"table_id": "other"}, "is another table"),
        ({"generation": "../../x"}, "malformed"),
        ({"version": 0}, "malformed"),
    ):
        path.write_text(json.dumps(record | {"state": record["state"] | change}))
        with pytest.raises(TableError, match=said):
            VectorTable.open(table.uri, "prod")


def test_what_was_replaced_is_needed_for_the_grace() -> None:
    now = dt.datetime(2026, 1, 30, tzinfo=dt.UTC)
    state = PublishedState(
        generation=1, version=1, table_id="", space="0" * 16, encoder="e", rows=0, shards=0, rejects=0
    )
    log = [
        Publication(
            number=n,
            id=str(n),
            action="publish",
            at=dt.datetime(2026, 1, day, tzinfo=dt.UTC),
            state=state.model_copy(update={"version": n}),
        )
        for n, day in enumerate((1, 20, 24, 29), 1)
    ]
    assert needed_versions(log, now, READER_GRACE) == {1: {2: 2, 3: 3, 4: 4}}
    assert needed_versions(log, now, dt.timedelta(0)) == {1: {4: 4}}


def test_publications_in_s3(bucket: str, s3_server: S3Server) -> None:
    table = create_table(f"s3://{bucket}/t.lance", SPACE, KEPT, s3_server.storage)
    commit_shards(table, a_shard("a"))
    publish_newest(table)
    commit_shards(table, a_shard("b"))
    publish_newest(table)
    rollback(table.uri, table.storage)
    reader = VectorTable.open(table.uri, "prod", s3_server.storage)
    assert ids(reader) == expected(a_shard("a")).keys()
    assert read_tags(table.uri, table.storage)["prod"] == reader.dataset.version
