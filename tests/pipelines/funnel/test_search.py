"""Funnels of every home over one Lance table: what they find, what they refuse, and how they follow the table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lance
import numpy as np
import pytest

from pipelines.funnel import Funnel
from pipelines.tables.table import VectorTable
from pipelines.vectors.matryoshka import unit
from schemas.errors import ConfigError, InputError, LakeError, SpaceMismatch, TableError
from tests.support.funnel_tables import (
    GOAL,
    ROWS,
    WIDTH,
    append,
    batch,
    ids,
    query,
    recall_at_10,
    true_scores,
    vectors,
)


def test_scores_are_the_tables_own_cosines(funnel: Funnel, table: VectorTable) -> None:
    found, exact = funnel.search(query(), k=5), table.search(query(), k=ROWS)
    assert found["score"].to_pylist() == pytest.approx(true_scores(found, exact), abs=1e-6)
    assert found["score"].to_pylist() == sorted(found["score"].to_pylist(), reverse=True)


def test_recall_on_fresh_queries_is_within_the_cards_interval(funnel: Funnel) -> None:
    fresh = unit(vectors(300, seed=5).astype(np.float32))
    _, rows = funnel.nearest(fresh, k=10)
    exact = np.argsort(-(fresh @ unit(vectors(ROWS).astype(np.float32)).T), axis=1)
    assert funnel.card.best.low >= GOAL.recall
    assert funnel.card.best.low - 0.02 <= recall_at_10(rows, exact)


def test_a_filter_is_a_prefilter(funnel: Funnel) -> None:
    found = funnel.search(query(), k=12, where="id IN ('r5', 'r17', 'r4000')")
    assert sorted(ids(found)) == ["r17", "r4000", "r5"]
    odd = ids(funnel.search(query(), k=50, where="parity = 1"))
    assert len(odd) == 50
    assert all(int(name[1:]) % 2 for name in odd)


def test_deleted_rows_never_appear(funnel: Funnel, table: VectorTable) -> None:
    gone = ids(funnel.search(query(), k=30))
    table.refresh().dataset.delete(f"id IN ({', '.join(map(repr, gone))})")
    left = funnel.search(query(), k=30)
    assert not set(ids(left)) & set(gone)
    assert len(left) == 30


def test_appended_rows_are_found(funnel: Funnel, table: VectorTable) -> None:
    append(table, np.repeat(query()[None], 3, axis=0).astype(np.float16))
    assert sorted(ids(funnel.search(query(), k=3))) == [f"r{ROWS}", f"r{ROWS + 1}", f"r{ROWS + 2}"]
    assert ids(funnel.search(query(), k=1, where="parity = 1")) == [f"r{ROWS + 1}"]


def test_rewritten_rows_are_found_where_they_are_now(funnel: Funnel, table: VectorTable) -> None:
    best = ids(funnel.search(query(), k=1))[0]
    moved = batch(-query()[None].astype(np.float16), int(best[1:]), table.dataset.schema)
    table.refresh().dataset.merge_insert("id").when_matched_update_all().execute(moved)
    assert best not in ids(funnel.search(query(), k=20))
    assert ids(funnel.search(-query(), k=1)) == [best]


def test_a_restored_version_is_seen_as_it_was(funnel: Funnel, table: VectorTable) -> None:
    before = funnel.search(query(), k=10)
    old = table.refresh().dataset.version
    table.refresh().dataset.delete("id IN ('" + "', '".join(ids(before)) + "')")
    assert not set(ids(funnel.search(query(), k=10))) & set(ids(before))
    lance.dataset(table.uri, version=old).restore()  # type: ignore[no-untyped-call]
    assert funnel.search(query(), k=10) == before


def test_plan_and_card_survive_in_the_table(funnel: Funnel, table: VectorTable, how: dict[str, Any]) -> None:
    again = Funnel.open(table.uri, **how)
    assert again.plan == funnel.plan
    assert again.card == funnel.card
    assert again.search(query(), k=5) == funnel.search(query(), k=5)


REFUSED: list[tuple[dict[str, Any], type[LakeError], str]] = [
    ({"k": 0}, TableError, "k=0: ask for 1 row or more"),
    ({"k": 1.5}, InputError, "k=1.5: pass a whole number"),
    ({"k": True}, InputError, "k=True: pass a whole number"),
    ({"where": "parity = 1; AND shard = 3"}, TableError, "cannot be used on .+: it ends at its first semicolon"),
    ({"where": "nothing = 1"}, TableError, "cannot be used on .+ No field named nothing"),
    ({"where": "half ="}, TableError, "cannot be used on"),
    ({"where": "parity"}, TableError, "does not return a boolean"),
    ({"where": 1}, InputError, "where=1: pass SQL"),
    ({"columns": "parity"}, TableError, "pass a list of names, such as columns="),
    ({"columns": ["score"]}, TableError, "a search uses that name itself"),
    ({"columns": ["nothing"]}, TableError, "no column 'nothing'"),
    ({"group_by": "nothing"}, TableError, "group_by='nothing'"),
    ({"group_by": ["parity"]}, TableError, "pass the name of one column"),
    ({"group_by": "score"}, TableError, "group_by='score'"),
    ({"distinct": "no"}, InputError, "distinct='no': pass True or False"),
    ({"where": "parity / 0 = 1"}, TableError, "cannot be used on .+ Divide by zero"),
    ({"where": "\ud800"}, TableError, "cannot be used on"),
]


def test_a_recall_that_is_none_and_queries_of_another_shape_are_refused(funnel: Funnel) -> None:
    for recall in (-1, 0, 1, 2, "0.9", float("nan"), True):
        for search in (funnel.search, funnel.nearest):
            with pytest.raises(ConfigError, match=r"recall=.*: pass a number between 0 and 1, not at either end"):
                search(query()[None], recall=recall)
    for query_BD in (query(), query()[None, :8], [query()], None):
        with pytest.raises(SpaceMismatch, match=r"a numpy array of shape \(B, 64\)"):
            funnel.nearest(query_BD)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::schemas.errors.FunnelWarning")
def test_more_rows_than_there_are_take_no_more_memory_than_all(funnel: Funnel, table: VectorTable) -> None:
    for k in (10**9, 2**63, 10**20):
        assert sorted(ids(funnel.search(query(), k))) == sorted(f"r{n}" for n in range(ROWS))
        assert funnel.nearest(query()[None], k)[1].shape == (1, ROWS)
        assert funnel.search(query(), k, group_by="parity").num_rows == 2


def test_a_funnel_of_a_table_at_a_version_stays_at_it(table: VectorTable, how: dict[str, Any]) -> None:
    version = table.dataset.version
    table.dataset.tags.create("june", version)
    append(table, np.repeat(query()[None], 3, axis=0).astype(np.float16))
    for pinned in (version, "june"):
        for funnel in (
            Funnel.open(VectorTable.open(table.uri, pinned), **how),
            Funnel.open(table.uri, pinned, **how),
        ):
            assert not {f"r{ROWS}", f"r{ROWS + 1}"} & set(ids(funnel.search(query(), 3)))
            funnel.refresh()
            assert (len(funnel.table), funnel.table.dataset.version) == (ROWS, version)
        with pytest.raises(TableError, match=r"was opened at version .*; open the table without a version"):
            Funnel.build(VectorTable.open(table.uri, pinned), GOAL)
    assert f"r{ROWS}" in ids(Funnel.open(table, **how).search(query(), 3))


def test_table_and_funnel_refuse_the_same(funnel: Funnel, table: VectorTable) -> None:
    for asked, error, said in REFUSED:
        for search in (table.search, funnel.search):
            with pytest.raises(error, match=said):
                search(query(), **asked)
        if isinstance(asked.get("where"), str):
            with pytest.raises(error, match=said):
                funnel.explain(query(), asked["where"])
    for like in (3, ["r1", "r2"]):
        with pytest.raises(InputError, match="pass the id of one row"):
            funnel.search(like=like)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::schemas.errors.FunnelWarning")
def test_a_small_integer_of_numpy_is_a_number_of_rows_like_any_other(funnel: Funnel, table: VectorTable) -> None:
    for search in (table.search, funnel.search):
        for how in ({"query": query(), "group_by": "id"}, {"query": query(), "group_by": "parity"}, {"like": "r5"}):
            assert search(k=np.int8(100), **how) == search(k=100, **how)
    assert table.head(np.int8(100)) == table.head(100)


def test_like_and_groups_answer_as_an_exact_search_does(funnel: Funnel, table: VectorTable) -> None:
    table = table.refresh()
    for how in ({"like": "r17"}, {"query": query(), "group_by": "parity"}, {"query": query(), "distinct": True}):
        found, exact = funnel.search(k=2, **how), table.search(k=2, **how)
        assert found.column_names == exact.column_names
        assert len(set(ids(found)) & set(ids(exact))) >= 1
        assert "r17" not in ids(found) or "like" not in how
    append(table, vectors(1, 77))
    assert f"r{ROWS}" not in ids(funnel.search(like=f"r{ROWS}", k=3))
    assert sorted(funnel.search(query(), 2, group_by="parity", columns=["parity"])["parity"].to_pylist()) == [0, 1]


def test_a_funnel_shows_its_stages_and_its_recall(funnel: Funnel) -> None:
    for shown in repr(funnel), funnel._repr_html_(), funnel.plan._repr_html_(), funnel.card._repr_html_():
        assert "recall" in shown
    card, best = funnel.card, funnel.card.best
    assert repr(card).startswith(f"<RecallCard recall@{card.k} {best.recall:.4f}")
    marked = [row for row in card._repr_html_().split("<tr")[1:] if row.startswith(' style="font-weight:600"')]
    assert len(marked) == 1
    for part in (">*<", f">{best.dims}<", f">{best.keep:,}<", f">{best.recall:.4f}<"):
        assert part in marked[0]


def test_a_batch_answers_as_its_queries_do_one_by_one(funnel: Funnel) -> None:
    many = np.stack([query(seed) for seed in range(5)])
    together = funnel.search(many, k=4)
    assert together["query"].to_pylist() == [q for q in range(5) for _ in range(4)]
    alone = [ids(funnel.search(one, k=4)) for one in many]
    assert ids(together) == [name for found in alone for name in found]


def test_threads_may_search_while_the_table_changes(funnel: Funnel, table: VectorTable) -> None:
    def ask(seed: int) -> int:
        if seed == 3:
            table.refresh().dataset.delete("parity = 0 AND shard < 3")
        return len(funnel.search(query(seed), k=10))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(16))) == [10] * 16


def test_more_than_there_are_gives_all(funnel: Funnel, table: VectorTable) -> None:
    table.refresh().dataset.delete("NOT id IN ('r1', 'r2', 'r3')")
    assert sorted(ids(funnel.search(query(), k=10))) == ["r1", "r2", "r3"]


def test_explain_says_what_was_read(funnel: Funnel) -> None:
    told = funnel.explain(query())
    assert [stage.dims for stage in told.stages] == [stage.dims for stage in funnel.plan.stages]
    assert told.stages[0].compared == ROWS
    assert told.exact_bytes == ROWS * WIDTH * 4
    assert 0 < sum(stage.bytes_read for stage in told.stages) < told.exact_bytes
    assert f"{told.exact_bytes:,}" in str(told)


def test_explain_counts_the_rows_that_a_filter_leaves(funnel: Funnel, table: VectorTable) -> None:
    append(table, vectors(2, 5))
    for where, rows in (("shard = 3 AND parity = 1", 429), ("id IN ('r1', 'r2', 'r6000')", 3), ("shard < 0", 0)):
        told = funnel.explain(query(), where)
        assert max(stage.kept for stage in told.stages) <= rows
        assert (told.stages[-1].compared <= rows, told.exact_bytes) == (True, rows * WIDTH * 4)
        assert told.stages[-1].kept == min(rows, funnel.plan.k)


def test_another_recall_takes_other_numbers_of_candidates(table: VectorTable) -> None:
    funnel = Funnel.open(table)
    assert funnel.search(query(), k=10, recall=0.7).num_rows == 10
    with pytest.raises(ConfigError, match=r"the card of .* confirms a recall of .* at most"):
        funnel.search(query(), k=10, recall=0.99999)


def test_a_missing_funnel_is_refused_with_its_remedy(table: VectorTable) -> None:
    table.dataset.delete_config_keys(list(table.dataset.config()))
    assert Funnel.homes(table.refresh()) == ()
    with pytest.raises(TableError, match="mlake funnel"):
        Funnel.open(table)


def test_a_home_or_device_that_does_not_exist_is_refused(table: VectorTable) -> None:
    with pytest.raises(ConfigError, match="device=meta:7x"):
        Funnel.open(table, device="meta:7x")
    with pytest.raises(ConfigError, match="a funnel in the lake holds no vectors on a device"):
        Funnel.open(table, home="lake", device="cpu")
    with pytest.raises(ConfigError, match="allowed: memory, codes, lake"):
        Funnel.open(table, home="ram")  # type: ignore[arg-type]


def test_codes_leave_the_vectors_in_the_table(table: VectorTable) -> None:
    codes, whole = Funnel.open(table, home="codes"), Funnel.open(table)
    assert codes.bytes_per_vector < whole.bytes_per_vector
    *coarse, last = codes.explain(query()).stages
    assert sum(stage.requests for stage in coarse) == 0
    assert last.requests > 0
    assert last.bytes_read >= last.compared * WIDTH * 2


def test_the_proof_is_the_exact_answer(table: VectorTable) -> None:
    funnel = Funnel.open(table)
    table.refresh().dataset.delete("shard = 3")
    append(table, np.repeat(query()[None], 2, axis=0).astype(np.float16))
    found, proven = funnel.prove(query(), k=10)
    exact = table.refresh().search(query(), k=10)
    assert ids(found) == ids(exact)
    assert found["score"].to_pylist() == pytest.approx(exact["score"].to_pylist(), abs=1e-6)
    assert dict(proven.touched)[WIDTH] < 1
    for home in ("codes", "lake"):
        with pytest.raises(TableError, match='home="memory"'):
            Funnel.open(table, home=home).prove(query())  # type: ignore[arg-type]
