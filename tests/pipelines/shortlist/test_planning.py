from __future__ import annotations

import pytest

from pipelines.shortlist.planning import lists_uri, plan_lists
from schemas.config import ShortlistConfig
from schemas.errors import ConfigError, DimNotInLadder, SpaceMismatch
from tests.support.small_tables import vectors


def test_tasks_cover_every_pair_of_query_and_fragment_once(make_table):
    table = make_table(*(vectors(40_000, seed, width=8) for seed in (1, 2, 3)), ladder=(4, 8))
    queries = make_table(vectors(100, 4, width=8), name="q", ladder=(4, 8))
    lists = {"k": 3, "queries": queries.uri, "memory_bytes": 490 << 20}
    plan = plan_lists(ShortlistConfig(table=table.uri, lists=lists))
    assert plan is not None
    assert len(plan.blocks) > 1
    assert len({task.part for task in plan.tasks}) > 1
    pairs = [(query, f) for task in plan.tasks for query in task.queries for f in task.fragments or ()]
    fragments = [fragment.fragment_id for fragment in table.dataset.get_fragments()]
    assert sorted(pairs) == [(query, f) for query in range(100) for f in fragments]
    assert plan.todo() == list(plan.tasks)
    assert len({task.file for task in plan.tasks}) == len(plan.tasks)


def test_lists_go_beside_their_table_unless_they_are_named(make_table):
    table = make_table(vectors(5, 1))
    assert lists_uri(ShortlistConfig(table=table.uri, lists={})) == table.uri.replace("t.lance", "t.shortlist.lance")
    assert lists_uri(ShortlistConfig(table=table.uri, lists={"table": "/a/b.lance"})) == "/a/b.lance"


def test_requests_that_cannot_be_planned_are_refused(make_table):
    table = make_table(vectors(20, 1))
    other = make_table(vectors(20, 1), name="other", ladder=(8, 32))
    with pytest.raises(SpaceMismatch):
        plan_lists(ShortlistConfig(table=table.uri, lists={"queries": other.uri}))
    with pytest.raises(DimNotInLadder):
        plan_lists(ShortlistConfig(table=table.uri, lists={"dims": [9]}))
    with pytest.raises(ConfigError, match="lists"):
        plan_lists(ShortlistConfig(table=table.uri))
