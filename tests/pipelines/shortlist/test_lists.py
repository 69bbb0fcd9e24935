from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.shortlist import add_prefixes
from pipelines.shortlist.agreement import agreement
from pipelines.shortlist.lists import commit_lists, read_lists, search_task
from pipelines.shortlist.planning import ListsPlan, plan_lists
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.config import ShortlistConfig
from schemas.errors import ConfigError, TableError
from schemas.shortlists import shortlist_spec
from tests.support.small_tables import add_vectors, vectors


def config(vectors: VectorTable, **lists: object) -> ShortlistConfig:
    return ShortlistConfig(table=vectors.uri, lists={"k": 5, **lists})


def build_lists(plan: ListsPlan) -> lance.LanceDataset:
    """Do what is left of a plan in this process."""
    for task in plan.todo():
        search_task(plan.spec, plan.uri, plan.config, task)
    return commit_lists(plan)


def by_brute_force(table: VectorTable, queries: VectorTable, dims, k, *, exclude_self=False, keep=None):
    """Return {(query id, dim): [(id, score)]} by numpy, in double precision."""
    rows, asking = table.dataset.to_table(columns=["id", "vector"]), queries.dataset.to_table(columns=["id", "vector"])
    ids = np.array(rows["id"].to_pylist())
    wanted = np.array([keep is None or keep(i) for i in ids])
    found = {}
    for dim in dims:
        q = cut(to_numpy(asking["vector"]).astype(np.float64), dim)
        scores = (q @ cut(to_numpy(rows["vector"]).astype(np.float64), dim).T).astype(np.float32)
        for name, row in zip(asking["id"].to_pylist(), scores, strict=True):
            row = np.where(wanted & ~(exclude_self & (ids == name)), row, -np.inf)
            near = np.flatnonzero(row >= np.partition(row, -min(k, len(row)))[-min(k, len(row))])
            order = [i for i in near[np.lexsort((ids[near], -row[near]))][:k] if np.isfinite(row[i])]
            found[name, dim] = [(ids[i], row[i]) for i in order]
    return found


def same(lists: lance.LanceDataset, expected) -> bool:
    rows = lists.to_table().to_pylist()
    found: dict = {}
    for row in rows:
        entry = found.setdefault((row["query_id"], row["dim"]), [])
        assert row["rank"] == len(entry) + 1
        entry.append((row["id"], row["score"]))
    assert found.keys() == {key for key, entries in expected.items() if entries}
    for key, entries in found.items():
        assert [i for i, _ in entries] == [i for i, _ in expected[key]], key
        assert np.allclose([s for _, s in entries], [s for _, s in expected[key]], atol=1e-6)
    return True


def test_lists_of_one_table_against_another(make_table):
    table = make_table(vectors(300, 1), vectors(200, 2))
    queries = make_table(vectors(40, 3), name="q")
    plan = plan_lists(config(table, queries=queries.uri))
    assert plan is not None
    lists = build_lists(plan)

    assert same(lists, by_brute_force(table, queries, (8, 16, 32), 5))
    spec = shortlist_spec(lists.schema, lists.uri)
    assert (spec.vectors_version, spec.queries_version) == (table.dataset.version, queries.dataset.version)
    assert spec.space == table.space.fingerprint
    assert lists.count_rows("query_id = 'q0-00003' AND dim = 8") == 5
    assert plan_lists(config(table, queries=queries.uri)) is None


def test_a_table_against_itself_without_itself_and_with_a_filter(make_table):
    x = vectors(120, 1)
    x[60:70] = x[0]
    table = make_table(x)
    plan = plan_lists(config(table, exclude_self=True, dims=[8, 32], where="id < 't0-00100'"))
    assert plan is not None
    expected = by_brute_force(table, table, (8, 32), 5, exclude_self=True, keep=lambda i: i < "t0-00100")
    assert same(build_lists(plan), expected)


def test_fewer_rows_than_k(make_table):
    table = make_table(vectors(3, 1))
    plan = plan_lists(config(table, k=50))
    assert plan is not None
    lists = build_lists(plan)
    assert same(lists, by_brute_force(table, table, (8, 16, 32), 50))
    found, queries = read_lists(lists)
    assert agreement(found, queries, resamples=10).overlap_LK[-1, 2] == 1


def test_a_prefix_column_is_read_where_it_serves_all_dims(make_table):
    table = add_prefixes(make_table(vectors(300, 1)), [8, 16])
    plan = plan_lists(config(table, dims=[8, 16], table=table.uri.replace("t.lance", "narrow.lance")))
    assert plan is not None
    assert plan.spec.column == "vector_16"
    lists = build_lists(plan)
    expected = by_brute_force(table, table, (16,), 1)
    top = lists.to_table(filter="dim = 16 AND rank = 1")
    scores = dict(zip(top["query_id"].to_pylist(), top["score"].to_pylist(), strict=True))
    assert all(abs(scores[name] - entries[0][1]) < 1e-3 for (name, _), entries in expected.items())


def test_a_killed_run_is_resumed_with_what_is_left(make_table, tmp_path):
    table = make_table(*(vectors(70_000, seed, width=8) for seed in (1, 2)), ladder=(4, 8))
    queries = make_table(vectors(20, 3, width=8), name="q", ladder=(4, 8))
    asked = config(table, queries=queries.uri, k=3)
    plan = plan_lists(asked)
    assert plan is not None
    assert len(plan.tasks) > 1
    search_task(plan.spec, plan.uri, plan.config, plan.todo()[0])
    folder = tmp_path / "t.shortlist.parts.lance"
    (folder / ".tmpKilled").write_bytes(b"half a piece")
    table = add_vectors(table, vectors(10, 9, width=8), "later")  # the resumed run stays at its own versions

    again = plan_lists(asked)
    assert again is not None
    assert again.spec == plan.spec
    assert len(again.todo()) == len(plan.tasks) - 1
    with pytest.raises(TableError, match="pieces"):
        commit_lists(again)
    lists = build_lists(again)

    as_planned = VectorTable.open(table.uri, plan.spec.vectors_version)
    assert same(lists, by_brute_force(as_planned, queries, (4, 8), 3))
    assert list(folder.iterdir()) == []


def test_a_killed_run_with_another_request_is_dropped(make_table):
    table = make_table(vectors(100, 1))
    killed = plan_lists(config(table, k=5))
    assert killed is not None
    search_task(killed.spec, killed.uri, killed.config, killed.tasks[0])
    plan = plan_lists(config(table, k=6))
    assert plan is not None
    assert len(plan.todo()) == len(plan.tasks)
    assert same(build_lists(plan), by_brute_force(table, table, (8, 16, 32), 6))


def test_repair_merges_what_came_and_searches_again_only_for_what_lost_rows(make_table):
    table = make_table(vectors(400, 1), vectors(100, 2))
    queries = make_table(vectors(60, 3), name="q")
    asked = config(table, queries=queries.uri)
    plan = plan_lists(asked)
    assert plan is not None
    first = build_lists(plan)

    gone = first.to_table(filter="rank = 1 AND dim = 32")["id"][0].as_py()
    table.dataset.delete(f"id = '{gone}'")
    table = add_vectors(table.refresh(), vectors(50, 4), "more")
    queries.dataset.delete("id = 'q0-00059'")
    queries = add_vectors(queries.refresh(), vectors(5, 5), "asks")

    plan = plan_lists(asked)
    assert plan is not None
    in_full = {place for task in plan.tasks if task.added_since is None for place in task.queries}
    assert 6 <= len(in_full) < 30
    lists = build_lists(plan)

    assert same(lists, by_brute_force(table, queries, (8, 16, 32), 5))
    assert shortlist_spec(lists.schema, lists.uri).vectors_version == table.dataset.version
    assert plan_lists(asked) is None


def test_a_killed_repair_is_resumed(make_table):
    table = make_table(vectors(400, 1))
    asked = config(table, exclude_self=True)
    plan = plan_lists(asked)
    assert plan is not None
    build_lists(plan)
    table = add_vectors(table, vectors(30, 2), "more")
    plan = plan_lists(asked)
    assert plan is not None
    search_task(plan.spec, plan.uri, plan.config, plan.todo()[0])
    again = plan_lists(asked)
    assert again is not None
    assert len(again.todo()) == len(plan.tasks) - 1
    assert same(build_lists(again), by_brute_force(table, table, (8, 16, 32), 5, exclude_self=True))


def test_commits_that_change_no_rows_leave_the_lists_as_they_are(make_table):
    table = make_table(vectors(100, 1))
    plan = plan_lists(config(table))
    assert plan is not None
    build_lists(plan)
    table = add_prefixes(table, [8])
    table.dataset.optimize.compact_files()
    assert plan_lists(config(table)) is None


def test_another_table_or_request_at_the_address_is_refused(make_table):
    table = make_table(vectors(20, 1))
    with pytest.raises(TableError, match="not a shortlist table"):
        plan_lists(config(table, table=table.uri))
    plan = plan_lists(config(table))
    assert plan is not None
    build_lists(plan)
    with pytest.raises(TableError, match="k: table 5, asked 6"):
        plan_lists(config(table, k=6))
    small = plan_lists(config(table, memory_bytes=1 << 20, table=str(Path(table.uri).parent / "small.lance")))
    assert small is not None
    with pytest.raises(ConfigError, match="memory_bytes"):
        build_lists(small)


def test_ids_with_quotes(make_table, tmp_path):
    table = make_table(vectors(20, 1), name="o'brien")
    plan = plan_lists(config(table))
    assert plan is not None
    build_lists(plan)
    table = add_vectors(table, vectors(20, 2), "it's")
    plan = plan_lists(config(table))
    assert plan is not None
    assert same(build_lists(plan), by_brute_force(table, table, (8, 16, 32), 5))
    assert isinstance(read_lists(lance.dataset(plan.uri))[0][8], pa.Array)
