"""A table holds each shard once, whoever commits it."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lance.commit import CommitConflictError

from pipelines.tables.commits import commit_fragments
from pipelines.tables.fragments import write_fragments, written_bytes
from pipelines.tables.ledger import Ledger, commit_leases, done_shards, records_of, rejects_of
from pipelines.tables.prefixes import add_prefixes
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.errors import TableError
from schemas.records import Shard
from tests.support.small_tables import (
    a_shard,
    changed,
    commit_shards,
    contents,
    drive,
    expected,
    new_table,
    race,
    write_lease,
)


def test_no_reader_sees_a_fragment_before_it_is_committed(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    result = write_lease(table, a_shard("a"))
    assert contents(table) == {}
    done = commit_leases(table, [result], "test")
    assert (done.shards, done.rows, done.rejects, done.redo) == (1, 5, 0, ())
    assert contents(table) == expected(a_shard("a"))
    assert done_shards(table.refresh()) == {a_shard("a").id}


def test_committing_twice_doubles_nothing(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    result = write_lease(table, a_shard("a"), rejects=2)
    commit_leases(table, [result], "test")
    again = commit_leases(table, [result], "test")
    assert (again.shards, again.rows, again.rejects) == (0, 0, 0)
    assert contents(table) == expected(a_shard("a"))
    assert rejects_of(table.refresh()).num_rows == 2
    assert records_of(table.refresh()).num_rows == 1


def test_a_shard_given_twice_in_one_commit_is_there_once(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_leases(table, [write_lease(table, a_shard("a")), write_lease(table, a_shard("a"))], "test")
    assert contents(table) == expected(a_shard("a"))


def test_if_another_run_committed_a_shard_of_a_lease_the_others_are_to_be_redone(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    result = write_lease(table, a_shard("a"), a_shard("b"))
    commit_shards(table, a_shard("a"))
    done = commit_leases(table, [result], "late")
    assert done.redo == (a_shard("b"),)
    assert contents(table) == expected(a_shard("a"))
    commit_shards(table, *done.redo)
    assert contents(table) == expected(a_shard("a"), a_shard("b"))


def test_one_commit_swaps_the_old_rows_of_a_changed_shard_for_the_new(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), a_shard("b"), rejects=1)
    before = table.refresh().dataset.version
    new = changed(a_shard("a"))
    commit_shards(table, new, rows=3)
    assert contents(table) == expected(new, rows=3) | expected(a_shard("b"))
    assert table.refresh().dataset.version == before + 1
    assert contents(VectorTable.open(table.uri)) == contents(table)
    old = VectorTable.open(table.uri, before).dataset.to_table(columns=["shard"])
    assert set(old["shard"].to_pylist()) == {a_shard("a").id, a_shard("b").id}
    assert rejects_of(table.refresh())["shard"].to_pylist() == [a_shard("b").id]


def test_a_shard_without_rows_is_done_and_leaves_none_of_its_old_rows(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    commit_shards(table, changed(a_shard("a")), rows=0, rejects=4)
    assert contents(table) == {}
    assert done_shards(table.refresh()) == {changed(a_shard("a")).id}
    assert rejects_of(table.refresh()).num_rows == 4


def test_a_shard_without_rows_is_not_done_while_older_rows_of_it_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.tables.ledger.commit_fragments", die)
        with pytest.raises(KeyboardInterrupt):
            commit_shards(table, changed(a_shard("a")), rows=0)
    assert changed(a_shard("a")).id not in done_shards(table.refresh())


def test_dying_between_the_records_and_the_commit_leaves_the_shard_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    new = changed(a_shard("a"))
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.tables.ledger.commit_fragments", die)
        with pytest.raises(KeyboardInterrupt):
            commit_shards(table, new, rejects=1)
    assert contents(table) == expected(a_shard("a"))
    assert new.id not in done_shards(table.refresh())
    commit_shards(table, new, rejects=1)
    assert contents(table) == expected(new)
    assert rejects_of(table.refresh()).num_rows == 1


def test_a_shard_may_be_committed_again_in_place_of_its_rows(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rejects=2)
    commit_leases(table, [write_lease(table, a_shard("a"), rows=7)], "retry", replace=True)
    assert contents(table) == expected(a_shard("a"), rows=7)
    assert rejects_of(table.refresh()).num_rows == 0


def test_racing_processes_commit_each_shard_once(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    old = [a_shard(f"s{i}") for i in range(12)]
    for start in range(0, 12, 4):
        commit_shards(table, *old[start : start + 4])
    shards = [changed(shard) for shard in old[:6]] + [a_shard(f"s{i}") for i in range(6, 24)]
    added = race(3, drive, table.uri, shards, 1)
    assert contents(table) == expected(*shards)
    assert sum(added) == 24 - 6  # six were there as they are
    table = table.refresh()
    assert done_shards(table.refresh()) == {shard.id for shard in shards}
    rejects = rejects_of(table.refresh())
    committed_here = [shard.id for shard in shards if shard not in old]
    assert sorted(rejects["shard"].to_pylist()) == sorted(committed_here)
    records = records_of(table.refresh())["shard"].to_pylist()
    assert len(records) == len(set(records))


def test_threads_that_commit_the_same_shard_at_once_record_its_rejects_once(tmp_path: Path) -> None:
    uri = new_table(tmp_path).uri
    barrier = threading.Barrier(4)

    def commit_all(number: int) -> int:
        table = VectorTable.open(uri)
        added = 0
        for i in range(6):
            result = write_lease(table, a_shard(f"s{i}"), rejects=2)
            barrier.wait()
            added += commit_leases(table, [result], f"driver{number}").shards
        return added

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(commit_all, range(4))) == 6
    table = VectorTable.open(uri)
    assert contents(table) == expected(*(a_shard(f"s{i}") for i in range(6)))
    assert rejects_of(table.refresh()).num_rows == 12
    assert records_of(table.refresh()).num_rows == 6


def test_rows_keep_their_row_id_through_commits_and_compaction(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for name in "abcdef":
        commit_shards(table, a_shard(name))
    commit_shards(table, changed(a_shard("c")))

    def row_ids() -> dict[str, int]:
        rows = table.refresh().dataset.scanner(columns=["id"], with_row_id=True).to_table()
        return dict(zip(rows["id"].to_pylist(), rows["_rowid"].to_pylist(), strict=True))

    before = row_ids()
    assert len(set(before.values())) == 30
    table.refresh().dataset.optimize.compact_files()
    commit_shards(table, changed(a_shard("e")), rows=2)
    after = row_ids()
    kept = {key for key in before if "/e." not in key}
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert len(set(after.values())) == len(after)


def test_a_compaction_between_write_and_commit_does_no_harm(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    shards = [a_shard(f"s{i}") for i in range(6)]
    for shard in shards:
        commit_shards(table, shard)
    result = write_lease(table, changed(shards[0]))
    table.refresh().dataset.optimize.compact_files()
    commit_leases(table, [result], "test")
    assert contents(table) == expected(changed(shards[0]), *shards[1:])


@settings(max_examples=8)
@given(st.data())
def test_after_any_commits_the_last_content_of_each_shard_is_there_once(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = new_table(Path(folder))
        names = st.sampled_from("abcd")
        steps = data.draw(st.lists(st.tuples(names, st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
        state: dict[str, tuple[str, int]] = {}
        for name, rows, is_new in steps:
            etag = state.get(name, ("1", 0))[0] + ("'" if is_new else "")
            done = commit_shards(table, a_shard(name, etag), rows=rows)
            # A shard that gave no rows is nowhere in the ledger of rows; committing it again is harmless.
            is_there = name in state and state[name][0] == etag and state[name][1] > 0
            assert done.shards == (not is_there)
            if not is_there:
                state[name] = (etag, rows)
        wanted: dict[str, tuple[int, bytes]] = {}
        for name, (etag, rows) in state.items():
            wanted |= expected(a_shard(name, etag), rows=rows)
        assert contents(table) == wanted
        assert done_shards(table.refresh()) >= {a_shard(name, etag).id for name, (etag, _) in state.items()}


def test_a_stream_that_fails_is_raised_as_it_is(tmp_path: Path) -> None:
    table = new_table(tmp_path)

    def broken() -> pa.RecordBatch:
        raise TableError("of my own")
        yield

    with pytest.raises(TableError, match="of my own"):
        write_fragments(table, broken())


def test_a_table_that_has_a_prefix_column_gets_it_for_new_rows_too(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"))
    table = add_prefixes(table, [8])
    commit_shards(table, a_shard("b"))
    rows = table.refresh().dataset.to_table()
    assert np.array_equal(to_numpy(rows["vector_8"]), cut(to_numpy(rows["vector"]), 8))


def test_following_its_own_commits_a_ledger_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = new_table(tmp_path)
    ledger = Ledger(table)
    commit_leases(table, [write_lease(table, a_shard("a"), a_shard("b"))], "one", ledger=ledger)

    def read(*args: object) -> None:
        raise AssertionError("something was read")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.tables.ledger.shards_of", read)
        patch.setattr("pipelines.tables.records.read_companion", read)
        patch.setattr(Ledger, "_read_records", read)
        commit_leases(table, [write_lease(table, a_shard("c"), rejects=1)], "one", ledger=ledger)
        commit_leases(table, [write_lease(table, changed(a_shard("a")))], "one", ledger=ledger)
        again = commit_leases(table, [write_lease(table, a_shard("b"))], "one", ledger=ledger)
    assert again.shards == 0
    assert contents(table) == expected(changed(a_shard("a")), a_shard("b"), a_shard("c"))


@settings(max_examples=10)
@given(st.data())
def test_two_runs_that_keep_ledgers_agree_whatever_happens_between_their_commits(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = new_table(Path(folder))
        runs = [("one", Ledger(table)), ("two", Ledger(table))]
        held: dict[str, Shard] = {}
        step = st.tuples(st.sampled_from(runs), st.sampled_from("abc"), st.sampled_from("12"), st.integers(0, 2))
        for (run, ledger), name, etag, disturbance in data.draw(st.lists(step, min_size=2, max_size=8)):
            shard = a_shard(name, etag)
            done = commit_leases(table, [write_lease(table, shard)], run, ledger=ledger)
            assert done.shards == (held.get(name) != shard)
            held[name] = shard
            if disturbance == 1:
                table.refresh().dataset.optimize.compact_files()
            if disturbance == 2:
                table.refresh().dataset.delete(f"shard = {held.pop(name).id}")
        assert contents(table) == expected(*held.values())


def test_many_small_fragments_are_merged_between_commits(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    ledger, shards = Ledger(table), [a_shard(f"s{i:02d}") for i in range(64)]
    commit_leases(table, [write_lease(table, shard) for shard in shards], "run", ledger=ledger)
    assert len(table.refresh().dataset.get_fragments()) == 64
    ledger.merge_small()
    assert len(table.refresh().dataset.get_fragments()) == 1
    new = [changed(shards[0]), *shards[1:], a_shard("more")]
    commit_leases(table, [write_lease(table, new[0]), write_lease(table, new[-1])], "run", ledger=ledger)
    assert contents(table) == expected(*new)


def test_a_merge_is_cut_off_at_so_many_bytes_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    ledger, shards = Ledger(table), [a_shard(f"s{i:03d}") for i in range(200)]
    leases = [write_lease(table, shard) for shard in shards]
    nbytes = sum(written_bytes(lease.fragments) for lease in leases)
    commit_leases(table, leases, "run", ledger=ledger)
    monkeypatch.setattr("pipelines.tables.ledger._MERGED_BELOW", {30: 64})
    monkeypatch.setattr("pipelines.tables.compaction_commits._MERGED_AT_ONCE_BYTES", nbytes // 2)
    counts = []
    for _ in range(3):
        ledger.merge_small()
        counts.append(len(table.refresh().dataset.get_fragments()))
    assert 200 > counts[0] > counts[1] == counts[2]
    assert contents(table) == expected(*shards)


def test_rejects_of_a_content_that_gave_no_rows_go_with_it(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rows=0, rejects=192)
    commit_shards(table, changed(a_shard("a")), rows=3, rejects=30)
    assert rejects_of(table.refresh()).num_rows == 30
    commit_shards(table, changed(changed(a_shard("a"))), rows=0, rejects=1)
    assert rejects_of(table.refresh())["shard"].to_pylist() == [changed(changed(a_shard("a"))).id]
    assert done_shards(table.refresh()) == {changed(changed(a_shard("a"))).id}  # an older content would be embedded


def test_a_run_that_comes_second_takes_its_records_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = new_table(tmp_path)
    late = write_lease(table, a_shard("a"), a_shard("b"), rows=2, rejects=3)

    def preempted(*args: object) -> None:
        monkeypatch.undo()
        commit_leases(table, [write_lease(table, a_shard("a"), rejects=1)], "first")
        raise CommitConflictError("preempted")

    monkeypatch.setattr("pipelines.tables.ledger.commit_fragments", preempted)
    assert commit_leases(table, [late], "second").redo == (a_shard("b"),)
    assert contents(table) == expected(a_shard("a"))
    assert records_of(table.refresh())["rows"].to_pylist() == [5]
    assert rejects_of(table.refresh())["run"].to_pylist() == ["first"]


def test_a_commit_that_failed_although_it_was_carried_out_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)

    def carried_out(*args: Any) -> None:
        commit_fragments(*args)
        monkeypatch.undo()
        raise CommitConflictError("preempted by itself")

    monkeypatch.setattr("pipelines.tables.ledger.commit_fragments", carried_out)
    done = commit_leases(table, [write_lease(table, a_shard("a"), rejects=1)], "run")
    assert (done.shards, done.rows, done.rejects, done.redo) == (1, 5, 1, ())
    assert contents(table) == expected(a_shard("a"))
    assert rejects_of(table.refresh()).num_rows == records_of(table.refresh()).num_rows == 1
