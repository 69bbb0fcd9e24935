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
from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.matryoshka import cut, unit
from schemas.config import ShortlistConfig
from schemas.errors import ConfigError, TableError
from schemas.records import LeaseResult, Shard, ShardCount
from schemas.shortlists import shortlist_spec
from tests.support.small_tables import SPACE, a_shard, add_vectors, changed, vectors


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
    in_full = {place for task in plan.tasks if task.changed_since is None for place in task.queries}
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


def rows_by_brute_force(table, k: int) -> dict:
    """The rows nearest to each row at full width, by row ids."""
    rows = table.refresh().dataset.scanner(columns=["vector"], with_row_id=True).to_table()
    x = unit(to_numpy(rows["vector"]).astype(np.float64))
    near = np.argsort(-(x @ x.T) + 10 * np.eye(len(x)), axis=1, kind="stable")[:, :k]
    ids = rows["_rowid"].to_numpy()
    return {int(ids[q]): [int(ids[i]) for i in row] for q, row in enumerate(near)}


def rows_listed(lists: lance.LanceDataset) -> dict:
    found: dict = {}
    for row in lists.to_table(filter="dim = 32").to_pylist():
        found.setdefault(row["query_row"], []).append(row["row"])
    return found


def repaired(table) -> lance.LanceDataset:
    plan = plan_lists(config(table, exclude_self=True))
    assert plan is not None
    return build_lists(plan)


def test_shards_that_share_ids_have_lists_of_their_own_and_are_repaired(tmp_path):
    """Ids count from zero in each shard, as WebDataset has it."""
    table = create_table(str(tmp_path / "t.lance"), SPACE, pa.schema([]))

    def commit(shard: Shard, seed: int) -> None:
        x = vectors(30, seed)
        ids = pa.array([f"{i:06d}" for i in range(len(x))])
        columns = [ids, pa.array(np.full(len(x), shard.id)), to_arrow(x)]
        batch = pa.RecordBatch.from_arrays(columns, names=["id", "shard", "vector"])
        fragments = write_fragments(table, [batch])
        commit_leases(table, [LeaseResult((ShardCount(shard, len(x), 0),), fragments, (), len(x))], "run")

    commit(a_shard("a"), 1)
    commit(a_shard("b"), 2)
    assert rows_listed(repaired(table)) == rows_by_brute_force(table, 5)
    commit(changed(a_shard("b")), 3)  # the same ids again, with other vectors
    assert rows_listed(repaired(table)) == rows_by_brute_force(table, 5)
    table.refresh().dataset.delete(f"shard = {a_shard('a').id} AND id < '000010'")  # shard b has these ids as well
    assert rows_listed(repaired(table)) == rows_by_brute_force(table, 5)


@pytest.mark.parametrize("how", ["update", "merge_insert"])
def test_vectors_that_another_tool_changed_are_searched_again(make_table, how):
    table = add_prefixes(make_table(vectors(60, 1), vectors(60, 2)), [8])
    assert rows_listed(repaired(table)) == rows_by_brute_force(table, 5)
    rows = table.dataset.to_table(filter="id IN ('t0-00003', 't1-00007')")
    new = vectors(2, 9)
    if how == "update":
        written = ", ".join(map(str, new[0].tolist()))
        table.dataset.update({"vector": f"[{written}]"}, where="id IN ('t0-00003', 't1-00007')")
    else:
        rows = rows.set_column(rows.schema.get_field_index("vector"), rows.schema.field("vector"), to_arrow(new))
        table.dataset.merge_insert("id").when_matched_update_all().execute(rows)
    table.refresh().dataset.optimize.compact_files()
    assert rows_listed(repaired(table)) == rows_by_brute_force(table, 5)
    assert plan_lists(config(table, exclude_self=True)) is None
