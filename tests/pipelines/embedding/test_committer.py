"""The committer commits what is many or old enough, and everything at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.embedding.committer import Committer
from pipelines.tables.ledger import commit_leases
from schemas.config import EmbedConfig
from schemas.errors import TooManyRejects
from tests.support.corpus import config_for
from tests.support.small_tables import a_shard, contents, expected, new_table, write_lease


def config_of(folder: Path, **limits: float) -> EmbedConfig:
    return config_for(folder / "src", folder / "t.lance", limits={"commit_age_s": 600.0, "commit_shards": 4} | limits)


def test_leases_wait_until_they_are_many(tmp_path: Path) -> None:
    table, shards = new_table(tmp_path), [a_shard(name) for name in "abcdef"]
    committer = Committer(table, config_of(tmp_path), "test")
    for shard in shards[:3]:
        committer.add(write_lease(table, shard))
        committer.poll()
    assert contents(table) == {}
    committer.add(write_lease(table, *shards[3:5]))
    committer.poll()
    assert committer.flush() == []
    assert (committer.shards, committer.rows, committer.commits) == (5, 25, 1)
    committer.add(write_lease(table, shards[5]))
    assert committer.flush() == []
    assert (committer.shards, committer.commits) == (6, 2)
    assert contents(table) == expected(*shards)


def test_an_old_lease_is_committed_alone(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    committer = Committer(table, config_of(tmp_path, commit_age_s=0.0), "test")
    committer.add(write_lease(table, a_shard("a")))
    committer.poll()
    assert committer.flush() == []
    assert committer.commits == 1


def test_a_lease_of_which_another_run_committed_a_shard_is_embedded_again(tmp_path: Path) -> None:
    table, a, b = new_table(tmp_path), a_shard("a"), a_shard("b")
    commit_leases(table, [write_lease(table, a)], "other")
    committer = Committer(table, config_of(tmp_path), "test")
    committer.add(write_lease(table, a, b))
    assert committer.flush() == [b]
    assert committer.shards == 0


def test_too_many_rejects_are_not_committed(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    committer = Committer(table, config_of(tmp_path), "test")
    committer.add(write_lease(table, a_shard("a"), rejects=30))
    with pytest.raises(TooManyRejects, match="30 of 35 samples"):
        committer.flush()
    assert contents(table) == {}
