"""`mlake delete` leaves no byte of a row anywhere, and says what still keeps one."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.__main__ import main
from pipelines.storage.addresses import sibling
from pipelines.tables.commits import create_scalar_index
from pipelines.tables.create import create_table
from pipelines.tables.erased import erased_samples, is_erased, without_erased
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.indexes import index_prefix
from pipelines.tables.ledger import commit_leases, done_shards, records_of, rejects_of
from pipelines.tables.maintenance import delete_orphans, find_orphans
from pipelines.tables.night_log import NightLock, read_nights
from pipelines.tables.opening import open_dataset
from pipelines.tables.prefixes import add_prefixes
from pipelines.tables.publication_log import generation_uri
from pipelines.tables.runs import RunRecord, read_journal
from pipelines.tables.table import VectorTable
from schemas.errors import TableNotFound
from schemas.records import Reject
from tests.support.corpus import settings, write_config
from tests.support.erasures import GONE, INDEX, LOCAL, WHERE, A, B, delete, lists_of, places, search
from tests.support.small_tables import (
    KEPT,
    SPACE,
    a_shard,
    changed,
    commit_shards,
    contents,
    expected,
    ids_of,
    new_table,
    write_lease,
)


@pytest.fixture
def lake(tmp_path: Path) -> VectorTable:
    """A table with a prefix column, indexes and lists, of two shards."""
    table = new_table(tmp_path)
    commit_shards(table, A, B, rejects=1)
    table = index_prefix(add_prefixes(table.refresh(), [8]), 8, INDEX)
    create_scalar_index(table.uri, "id", LOCAL)
    search(table)
    return table.refresh()


def test_no_byte_of_an_erased_row_is_left(
    lake: VectorTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lists_of(lake)
    assert any(GONE in names for query, names in before.items() if query != GONE)
    planned = delete(lake, capsys, "--dry-run")
    assert (planned["rows"], planned["is_gone"]) == (1, False)
    assert contents(lake) == expected(A, B)

    done = delete(lake, capsys)
    assert (done["rows"], done["rows_by_generation"], done["is_gone"]) == (1, {"1": 1}, False)
    assert contents(lake) == {name: row for name, row in expected(A, B).items() if name != GONE}
    assert {keeper["kind"] for keeper in done["keepers"]} == {"versions"}
    # Lists that named the row are gone, those of others stay, and the next search makes them anew.
    left = lists_of(lake)
    assert left == {query: names for query, names in before.items() if GONE not in [query, *names]}
    assert done["lists_removed"] == len(before) - len(left)
    fresh = search(lake)
    assert set(fresh) == set(before) - {GONE}
    assert all(len(names) == 6 and GONE not in names for names in fresh.values())

    assert places(tmp_path)
    capsys.readouterr()
    assert main(["clean", lake.uri, "--older-than", "0"]) == 0
    assert places(tmp_path) == set()
    again = delete(lake, capsys)
    assert (again["rows"], again["is_gone"]) == (0, True)
    assert main(["delete", lake.uri, "--where", WHERE]) == 0
    assert "no version keeps a byte" in capsys.readouterr().out

    # The shard stays done, its record is true, and its rejects stay.
    table = lake.refresh()
    assert done_shards(table) == {A.id, B.id}
    rows = {row["shard"]: (row["rows"], row["rejects"]) for row in records_of(table).to_pylist()}
    assert rows == {A.id: (4, 1), B.id: (5, 1)}
    entry = next(entry for entry in read_journal(table) if entry.job == "delete")
    assert (entry.config["where"], entry.summary["rows"]) == ("id = '…'", 1)


def test_rejects_of_an_erased_sample_go_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(tmp_path)
    for shard, rows in (A, 0), (changed(A), 5):  # an earlier content of the file, then the present one
        lease = write_lease(table, shard, rows=rows, rejects=2)
        again = Reject(shard.id, 9, GONE, "duplicate_id", "an earlier sample of this shard has the same id")
        counts = (replace(lease.counts[0], rejects=3),)
        commit_leases(table, [replace(lease, rejects=(*lease.rejects, again), counts=counts)], shard.etag)
    done = delete(table, capsys)
    assert (done["rows"], done["is_gone"]) == (1, False)
    assert {keeper["uri"] for keeper in done["keepers"]} == {table.uri, sibling(table.uri, "rejects")}
    assert main(["clean", table.uri, "--older-than", "0"]) == 0
    assert delete(table, capsys)["is_gone"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and GONE.encode() in path.read_bytes()]
    assert [record["rejects"] for record in records_of(table.refresh()).to_pylist()] == [2]
    assert len(rejects_of(table.refresh())) == 2
    erased = erased_samples(table.refresh())
    assert without_erased([again, *lease.rejects], erased, {}) == list(lease.rejects)


def test_erased_samples_are_known_to_later_runs_of_every_generation(
    lake: VectorTable, capsys: pytest.CaptureFixture[str]
) -> None:
    second = create_table(generation_uri(lake.uri, 2), SPACE, KEPT)
    commit_shards(second, A)
    publish(lake.uri, describe(second.refresh(), 2), LOCAL, PublishRequest())
    done = delete(lake, capsys)
    assert (done["rows_by_generation"], done["publication"]) == ({"1": 1, "2": 1}, 2)
    for table in (lake.refresh(), second.refresh()):
        rows = pa.RecordBatch.from_pydict({"id": ids_of(A, 5) * 2, "shard": [A.id] * 5 + [changed(A).id] * 5})
        assert np.flatnonzero(is_erased(rows, erased_samples(table), {})).tolist() == [3, 8]
    # The last rows of a shard may go; it is not embedded again.
    delete(lake, capsys, where=f"shard = {A.id}")
    assert done_shards(lake.refresh()) == {A.id, B.id}
    assert [night.state for night in read_nights(lake.uri, LOCAL)] == ["erased", "erased"]


def test_it_says_what_keeps_bytes_and_until_when(lake: VectorTable, capsys: pytest.CaptureFixture[str]) -> None:
    publish(lake.uri, describe(lake, 1), LOCAL, PublishRequest())
    lake.dataset.tags.create("mine", lake.dataset.version)
    record = RunRecord(lake, "embed", {})
    done = delete(lake, capsys)
    assert done["publication"] == 2
    assert GONE not in contents(VectorTable.open(lake.uri, "prod"))
    kept = {keeper["kind"]: keeper for keeper in done["keepers"] if keeper["uri"] == lake.uri}
    assert set(kept) == {"publication", "tag", "versions", "run"}
    assert kept["publication"]["until"] > dt.datetime.now(dt.UTC).isoformat()
    assert "tags.delete" in kept["tag"]["command"]
    assert record.run in kept["run"]["what"]
    record.end("complete", {})


def test_prod_never_shows_erased_rows_after_an_erasure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = new_table(tmp_path)
    for shard in (A, B):
        commit_shards(lake, shard)
    assert main(["publish", lake.uri]) == 0
    assert main(["clean", lake.uri, "--compact"]) == 0
    assert VectorTable.open(lake.uri).dataset.version > VectorTable.open(lake.uri, "prod").dataset.version
    planned = delete(lake, capsys, "--dry-run")
    assert (planned["rows_of_prod"], planned["publication"], planned["prod_shows_them"]) == (1, None, False)
    assert delete(lake, capsys)["publication"] == 2
    assert GONE not in contents(VectorTable.open(lake.uri, "prod"))
    # What was committed since has passed no audit: it is not published, and `prod` is not left as it is either.
    commit_shards(lake, a_shard("c"))
    before, other = contents(lake), ids_of(A, 5)[1]
    capsys.readouterr()
    assert main(["delete", lake.uri, "--where", f"id = '{other}'"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "`prod` shows 1 row that would be erased" in said
    assert "differs by 5 other rows that nobody has published; publish first" in said
    assert contents(lake) == before
    assert delete(lake, capsys, where="id = '/src/c.jsonl-0'")["publication"] is None  # `prod` has it not
    done = delete(lake, capsys, "--hide-prod", where=f"id = '{other}'")
    assert (done["rows"], done["prod_is_hidden"], done["prod_shows_them"]) == (1, True, False)
    with pytest.raises(TableNotFound, match="nothing is published"):
        VectorTable.open(lake.uri, "prod")
    assert main(["rollback", lake.uri, "--to", "2"]) == 2
    assert main(["publish", lake.uri]) == 0
    assert {other, GONE}.isdisjoint(contents(VectorTable.open(lake.uri, "prod")))


def test_an_erasure_that_was_killed_before_it_published_publishes_when_repeated(
    lake: VectorTable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["publish", lake.uri]) == 0
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.nightly.erase.publish", lambda *_: (_ for _ in ()).throw(OSError("no answer")))
        assert main(["delete", lake.uri, "--where", WHERE]) == 1
    assert GONE in contents(VectorTable.open(lake.uri, "prod"))
    assert delete(lake, capsys)["publication"] == 2
    assert GONE not in contents(VectorTable.open(lake.uri, "prod"))


def test_an_erasure_that_was_killed_is_completed(
    lake: VectorTable, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.nightly.erase.purge", lambda *_: (_ for _ in ()).throw(OSError("no answer")))
        assert main(["delete", lake.uri, "--where", WHERE]) == 1
    planned = delete(lake, capsys, "--dry-run")
    assert (planned["rows"], planned["is_gone"]) == (0, False)
    assert "did not come to its end" in planned["keepers"][0]["what"]
    done = delete(lake, capsys)
    assert (done["rows"], done["is_gone"], done["lists_removed"] > 0) == (0, False, True)
    assert main(["clean", lake.uri, "--older-than", "0"]) == 0
    assert places(tmp_path) == set()


def test_a_rollback_does_not_bring_erased_rows_back_unasked(
    lake: VectorTable, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", lake.uri]) == 0
    delete(lake, capsys)
    assert main(["rollback", lake.uri]) == 2
    assert "publication 1 shows 1 row that `mlake delete` has erased" in " ".join(capsys.readouterr().err.split())
    assert GONE not in VectorTable.open(lake.uri, "prod").dataset.to_table(columns=["id"])["id"].to_pylist()
    assert main(["rollback", lake.uri, "--even-if-erased"]) == 0
    assert GONE in VectorTable.open(lake.uri, "prod").dataset.to_table(columns=["id"])["id"].to_pylist()


def test_a_filter_that_finds_nothing_says_what_was_looked_at(
    lake: VectorTable, capsys: pytest.CaptureFixture[str]
) -> None:
    for where, near in {
        "half = 'Evn'": "no `half` is 'Evn'; near it are 'even'",
        "half IN ('ODD ')": "no `half` is 'ODD '; near it are 'odd'",
        "half = 'x' AND n > 3": "no `half` is 'x'; there are 'even', 'odd'",
        "n > 30": "",
    }.items():
        done = delete(lake, capsys, where=where)
        assert done["hints"][0].startswith(
            f"none of the 10 rows of {lake.uri} satisfies it; its columns are id (string)"
        )
        assert done["hints"][1:] == ([near] if near else [])
    assert main(["delete", lake.uri, "--where", "half = 'Evn'"]) == 0
    assert "near it are 'even'" in capsys.readouterr().out


def test_filters_that_fail_and_nights_at_work_are_refused(
    lake: VectorTable, capsys: pytest.CaptureFixture[str]
) -> None:
    second = create_table(generation_uri(lake.uri, 2), SPACE, pa.schema([]))
    before = contents(lake)
    for where, said in {
        "nn = 3": "n",
        "n": "boolean",
        "cast(id as int) = 3": "fails on rows",
        "_rowid = 3": "differs between generations",
        "n = 3": second.uri,
    }.items():
        assert main(["delete", lake.uri, "--where", where]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert contents(lake) == before
    with NightLock(lake.uri, LOCAL):
        assert main(["delete", lake.uri, "--where", WHERE]) == 1
    assert "is at work" in capsys.readouterr().err
    assert main(["delete", f"{lake.uri}x", "--where", WHERE]) == 2


def test_files_that_no_run_committed_are_named_and_no_text_of_a_filter_is_kept(
    lake: VectorTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lease(lake, A)  # a run that is killed now
    assert delete(lake, capsys, where="id = 'a_rowid'")["rows"] == 0
    assert delete(lake, capsys, where=WHERE)["rows"] == 1
    assert main(["clean", lake.uri, "--older-than", "0"]) == 0
    done = delete(lake, capsys)
    assert (done["is_gone"], [keeper["kind"] for keeper in done["keepers"]]) == (False, ["files"])
    assert done["keepers"][0]["until"] > dt.datetime.now(dt.UTC).isoformat()
    delete_orphans(lake, find_orphans(lake.refresh(), dt.timedelta(0)))
    assert main(["clean", lake.uri, "--older-than", "0"]) == 0
    assert places(tmp_path) == set()
    assert delete(lake, capsys)["is_gone"]
    assert main(["delete", lake.uri, "--where", "`_rowid` = 3"]) == 2


def test_erased_samples_do_not_come_back_under_other_ids(
    tmp_path: Path, without_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "src"
    write_lines(shards / "a.jsonl", [{"id": f"a{n}", "key": f"k{n}", "text": f"text {n}"} for n in range(5)])
    write_lines(shards / "b.jsonl", [{"id": f"b{n}", "key": f"l{n}", "text": f"other {n}"} for n in range(5)])
    base = str(tmp_path / "t.lance")

    def embed(table: str, **fields: str) -> int:
        config = settings(shards, Path(table), input={"text": "text", **fields})
        return main(["embed", str(write_config(tmp_path / "c.toml", config))])

    assert embed(base, id="id") == 0
    assert main(["publish", base]) == 0
    assert main(["delete", base, "--where", "id = 'a3'"]) == 0
    second, third = generation_uri(base, 2), generation_uri(base, 3)
    for fields in ({"id": "key"}, {}, {"id": "id", "id_prefix": "shard"}):
        capsys.readouterr()
        assert embed(second, **fields) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert 'a.jsonl are erased, and known by the ids of input.id = "id" and input.id_prefix' in said
    assert embed(second, id="id") == 0
    assert {"a2", "b3"} < ids(second)
    assert "a3" not in ids(second)
    # In a shard that changed they are not known under other ids either, until they are lifted.
    write_lines(shards / "a.jsonl", [{"id": f"a{n}", "key": f"k{n}", "text": f"text {n}"} for n in range(6)])
    capsys.readouterr()
    assert embed(third, id="key") == 2
    lift = ["lift", base, "--shard", str(shards / "a.jsonl")]
    assert " ".join(["mlake", *lift]) in " ".join(capsys.readouterr().err.split())
    assert main(lift) == 0
    assert embed(third, id="key") == 0
    assert {"k3", "l3"} < ids(third)
    # A filter that finds the sample in each generation makes it known under each name.
    assert main(["delete", base, "--where", "id IN ('b1', 'l1')"]) == 0
    assert embed(generation_uri(base, 4), id="key") == 0
    assert ids(generation_uri(base, 4)) == ids(third) == {f"k{n}" for n in range(6)} | {"l0", "l2", "l3", "l4"}


def ids(uri: str) -> set[str]:
    return set(open_dataset(uri, LOCAL).to_table(columns=["id"])["id"].to_pylist())


def write_lines(path: Path, samples: list[dict[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
