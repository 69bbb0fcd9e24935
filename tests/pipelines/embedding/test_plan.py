"""A plan leases small shards together and estimates its samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.embedding.plan import expected_samples, make_plan, plan_leases
from schemas.errors import ConfigError, SpaceMismatch
from schemas.records import Shard
from tests.support.corpus import config_for, write_corpus
from tests.support.embedding import embed_here


def test_shards_are_leased_together_up_to_a_size() -> None:
    shards = [Shard(f"s{i}", size, "1", "jsonl") for i, size in enumerate((30, 30, 30, 200, 10, 10))]
    leases = plan_leases(shards, 60)
    assert [[shard.uri for shard in lease.shards] for lease in leases] == [["s0", "s1"], ["s2"], ["s3"], ["s4", "s5"]]
    assert plan_leases([], 60) == []


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
    assert expected_samples(make_plan(config).todo, config) == pytest.approx(200, rel=0.3)
    assert expected_samples([], config) == 0


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
