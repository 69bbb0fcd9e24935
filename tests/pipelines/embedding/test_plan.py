"""A plan leases small shards together and estimates its samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from pipelines.embedding.plan import expected_rows, make_plan, plan_leases, under_known_names
from pipelines.shards import list_shards
from pipelines.storage.addresses import sibling
from pipelines.tables.create import create_table
from schemas.columns import SHARDS
from schemas.config import LimitsConfig
from schemas.errors import ConfigError, SpaceMismatch
from schemas.records import Shard
from tests.support.corpus import config_for, write_corpus
from tests.support.embedding import embed_here


def test_shards_are_leased_together_up_to_a_size_and_a_number() -> None:
    def grouped(limits: LimitsConfig) -> list[str]:
        return ["".join(shard.uri for shard in lease.shards) for lease in plan_leases(shards, limits)]

    shards = [Shard(f"{i}", size, "1", "jsonl") for i, size in enumerate((30, 30, 30, 200, 10, 10, 0, 0))]
    assert grouped(LimitsConfig(lease_bytes=60)) == ["01", "2", "3", "4567"]
    assert grouped(LimitsConfig(lease_shards=3)) == ["012", "345", "67"]
    assert plan_leases([], LimitsConfig()) == []
    tiny = [Shard(f"{i}", 1, "1", "jsonl") for i in range(20_000)]
    assert max(len(lease.shards) for lease in plan_leases(tiny, LimitsConfig())) <= 256


@pytest.mark.parametrize("actors", [1, 3, 16, 500])
def test_every_actor_gets_leases_and_every_shard_one(actors: int) -> None:
    shards = [Shard(f"{i}", 265_000, "1", "jsonl") for i in range(200)]  # 53 MB, less than one lease may have
    leases = plan_leases(shards, LimitsConfig(), actors)
    assert [shard for lease in leases for shard in lease.shards] == shards
    assert len(leases) >= min(len(shards), 4 * actors if actors > 1 else 1)
    assert max(len(lease.shards) for lease in leases) <= max(1, 200 // (4 * actors) + 1) if actors > 1 else True


def test_shards_that_the_table_holds_are_not_planned_again(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=2, rows=5)
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    plan = make_plan(config)
    assert (len(plan.todo), plan.table) == (2, None)
    embed_here(config)
    write_corpus(tmp_path / "src", shards=3, rows=5)
    shards = {Path(shard.uri).name for shard in make_plan(config).todo}
    assert "s002.jsonl" in shards


def test_samples_are_estimated_by_bytes(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=4, rows=50)
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    assert expected_rows(make_plan(config).todo, config) == pytest.approx(200, rel=0.3)
    assert expected_rows([], config) == 0


def test_an_encoder_or_a_space_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=1, rows=5)
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    image = config.model_copy(update={"encoder": config.encoder.model_copy(update={"name": "efficientnet-lite0"})})
    with pytest.raises(ConfigError, match="does not embed that"):
        make_plan(image)
    embed_here(config)
    rotated = config_for(tmp_path / "src", tmp_path / "t.lance", rotation={"kind": "pca"})
    with pytest.raises(SpaceMismatch, match="mlake rotate"):
        make_plan(rotated)


def test_a_file_that_the_table_knows_by_another_address_is_the_same_shard(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=4, rows=3)
    (tmp_path / "link").symlink_to(tmp_path / "src")
    (tmp_path / "one.jsonl").symlink_to(tmp_path / "src" / "s003.jsonl")
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    table = create_table(config.table, make_plan(config).space, pa.schema([]))
    # As the first release stored them.
    old = (f"{tmp_path}/link/s000.jsonl", f"{tmp_path}/src/x/../s001.jsonl", f"{tmp_path}/one.jsonl")
    (tmp_path / "src" / "x").mkdir()
    uris = (*old[:2], "/gone", old[2])
    known = [replace(shard, uri=uri) for shard, uri in zip(list_shards(config.shards), uris, strict=True)]
    records = [{**vars(s), "shard": s.id, "rows": 0, "rejects": 0, "run": "", "landed_at": 0} for s in known]
    lance.write_dataset(pa.Table.from_pylist(records, SHARDS), sibling(table.uri, "shards"), mode="append")
    plan = make_plan(config)
    assert [Path(shard.uri).name for shard in plan.todo] == ["s002.jsonl"]
    (tmp_path / "src" / "s001.jsonl").write_text('{"text": "new"}')
    assert old[1] in {shard.name for shard in make_plan(config).todo}, "its rows are replaced, since the address stays"


def test_a_shard_that_was_stored_with_its_signature_is_the_same_shard() -> None:
    old = "https://h/a.tar?X-Amz-Date=1&X-Amz-Signature=S3cr3t"
    for etag in ("e", "changed"):
        [found] = under_known_names(
            [Shard("https://h/a.tar?X-Amz-Date=2&X-Amz-Signature=0", 1, etag, "webdataset")],
            pa.table({"uri": [old, "https://h/b.tar"], "etag": ["e", "e"]}),
        )
        assert found.uri.endswith("Signature=0")
        assert found.id == Shard(old, 1, etag, "webdataset", known_as=old).id


def test_a_table_may_lie_among_its_shards(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=2, rows=5)
    config = config_for(tmp_path / "src", tmp_path / "src" / "t.lance")
    config = config.model_copy(update={"shards": (str(tmp_path / "src"),)})
    embed_here(config)
    plan = make_plan(config)
    assert (len(plan.shards), plan.todo) == (2, ())
