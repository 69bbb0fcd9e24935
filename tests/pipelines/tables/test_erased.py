"""What was erased does not come back by a commit, and an erasure that was killed is completed by whoever comes next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipelines.tables.ledger
from jobs.__main__ import main
from pipelines.nightly.erase import finish_erasure
from pipelines.tables.create import create_table
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.ledger import commit_leases
from pipelines.tables.publication_log import generation_uri
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from tests.support.erasures import GONE, LOCAL, WHERE, A, B, delete
from tests.support.small_tables import KEPT, SPACE, changed, commit_shards, contents, expected, new_table, write_lease


def before(call: Callable[..., Any], happens: Callable[[], object]) -> Callable[..., Any]:
    """Return a function that lets something happen once, and then calls another."""
    todo = [happens]

    def called(*args: Any, **options: Any) -> Any:
        if todo:
            todo.pop()()
        return call(*args, **options)

    return called


@pytest.mark.parametrize("is_late", [False, True])
def test_a_lease_that_was_read_before_an_erasure_is_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    table = new_table(tmp_path)
    commit_shards(table, A, B)
    lease, other = write_lease(table, changed(A)), write_lease(table, changed(B))
    if is_late:  # at the last moment before the swap
        swap = pipelines.tables.ledger.commit_fragments
        happens = before(swap, lambda: delete(table, capsys))
        monkeypatch.setattr(pipelines.tables.ledger, "commit_fragments", happens)
    else:
        delete(table, capsys)
    done = commit_leases(table, [lease, other], "test")
    assert (done.shards, done.redo) == (1, (changed(A),))
    left = {name: row for name, row in expected(A).items() if name != GONE}
    assert contents(table) == left | expected(changed(B))


def test_a_generation_without_the_row_gets_it_not_from_a_run_at_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    commit_shards(table, A)
    publish(table.uri, describe(table.refresh(), 1), LOCAL, PublishRequest())
    second = create_table(generation_uri(table.uri, 2), SPACE, KEPT)
    with RunRecord(second, "embed", {}):
        lease = write_lease(second, A)
        swap = pipelines.tables.ledger.commit_fragments
        happens = before(swap, lambda: delete(table, capsys))
        monkeypatch.setattr(pipelines.tables.ledger, "commit_fragments", happens)
        assert commit_leases(second, [lease], "test").redo == (A,)
    assert contents(second) == {}


@pytest.mark.parametrize("what", ["commit_without", "purge", "publish"])
def test_an_erasure_that_was_killed_is_completed_by_the_next_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    table = new_table(tmp_path)
    commit_shards(table, A, B)
    publish(table.uri, describe(table.refresh(), 1), LOCAL, PublishRequest())
    where = "pipelines.tables.erasure" if what == "commit_without" else "pipelines.nightly.erase"
    with monkeypatch.context() as patched:
        patched.setattr(f"{where}.{what}", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        assert main(["delete", table.uri, "--where", WHERE]) == 1
    (said,) = finish_erasure(table.uri, LOCAL)
    assert f"is completed: {int(what == 'commit_without')} row" in said
    assert contents(table) == contents(VectorTable.open(table.uri, "prod"))
    assert contents(table) == {name: row for name, row in expected(A, B).items() if name != GONE}
    assert finish_erasure(table.uri, LOCAL) == []
    assert {keeper["kind"] for keeper in delete(table, capsys)["keepers"]} == {"versions", "publication"}


def test_an_erasure_that_may_be_at_work_is_left_alone_and_said(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, A)
    assert finish_erasure(table.uri, LOCAL) == finish_erasure(str(tmp_path / "none.lance"), LOCAL) == []
    record = RunRecord(table, "delete", {})
    (said,) = finish_erasure(table.uri, LOCAL)
    assert f"the erasure of run {record.run} is at work, or was killed less than 15 minutes ago" in said
