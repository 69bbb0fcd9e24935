"""`mlake inspect`: every figure is compared with the table itself; advice appears where something is to be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.__main__ import main
from pipelines.funnel import Funnel
from pipelines.tables.prefixes import add_prefixes
from pipelines.tables.runs import RunRecord
from pipelines.tables.tags import set_tag
from schemas.inspection import Inspection
from tests.support.funnel_tables import GOAL, append, vectors, write_table
from tests.support.small_tables import a_shard, commit_shards, new_table


def inspected(uri: str, capsys: pytest.CaptureFixture[str], *options: str) -> Inspection:
    assert main(["inspect", uri, *options, "--json"]) == 0
    return Inspection.model_validate_json(capsys.readouterr().out.splitlines()[-1])


def test_an_inspection_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table(tmp_path)
    assert inspected(table.uri, capsys).next[0].startswith("The table is empty.")
    commit_shards(table, a_shard("a"), a_shard("b"), rows=100, rejects=3)
    table = add_prefixes(table.refresh(), [8])
    table.dataset.delete("n < 10")
    table.dataset.create_scalar_index("n", "BTREE")
    set_tag(table.uri, "june", 2, table.storage)
    assert main(["publish", table.uri]) == 0
    commit_shards(table, a_shard("c"), rows=30)
    with RunRecord(table, "embed", {}) as record:
        record.summary |= {"rows": 30, "cut_texts": 4, "cut_tokens": 50, "text_tokens": 1_000}
    with RunRecord(table, "rotate", {}):
        found = inspected(table.uri, capsys)
    table = table.refresh()
    assert (found.rows, found.deleted_rows, found.shards) == (len(table), 20, 3) == (210, 20, 3)
    assert found.fragments == len(table.dataset.get_fragments())
    assert (found.versions, found.version) == (len(table.dataset.versions()), table.dataset.version)
    assert found.tags["june"] == 2
    assert found.prod is not None
    assert (found.prod.number, found.prod.version, found.prod.rows) == (1, table.dataset.version - 1, 180)
    assert [(each.reason, each.samples) for each in found.rejects] == [("empty_text", 6)]
    assert [(run.job, run.state, run.rows, run.cut_texts) for run in found.runs] == [
        ("rotate", "running", None, None),
        ("embed", "complete", 30, 4),
        ("publish", "complete", None, None),
    ]
    assert [(index.column, index.rows, index.unindexed_rows) for index in found.indexes] == [("n", 180, 30)]
    sizes = {column.name: column.bytes for column in found.columns}
    assert list(sizes) == table.columns
    assert sizes["vector"] >= 230 * 32 * 2
    assert found.bytes == sum(sizes.values())
    said = "\n".join(found.next)
    for advice in (
        "of the rows are not in index",
        f"mlake rejects {table.uri}",
        f"mlake publish {table.uri}",
        "4 texts of run",
        "cut (5.0% of all tokens)",
    ):
        assert advice in said
    earlier = inspected(table.uri, capsys, "--version", "june")
    assert (earlier.version, earlier.rows) == (2, 200)


def test_a_funnel_that_the_table_has_outgrown_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(str(tmp_path / "t.lance"))
    card = Funnel.build(table, GOAL).card
    (state,) = inspected(table.uri, capsys).funnels
    assert (state.home, state.k, state.recall, state.problem) == ("memory", card.k, card.best.recall, "")
    append(table.refresh(), vectors(7_000, 5))
    (state,) = inspected(table.uri, capsys).funnels
    assert "2.2 times the rows of its card" in state.problem
    assert (state.rows_then, state.rows_now) == (6_000, 13_000)


def test_it_fits_a_narrow_terminal_and_a_page_and_escapes_what_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = new_table(tmp_path, "<b>t")
    commit_shards(table, a_shard("a"), rejects=1)
    with RunRecord(table, "embed", {}) as record:
        record.summary |= {"rows": 12_345_678, "cut_texts": 12_345_678}
    table.refresh().dataset.add_columns({"\x1b[31m": "1"})
    page = tmp_path / "page.html"
    assert main(["inspect", table.uri]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert max(map(len, said[: said.index("\nnext")].splitlines())) <= 80
    for wrong, said in ((page.parent / "a" / page.name, "There is no folder"), (page.parent, "ends in .html")):
        with pytest.raises(SystemExit):
            main(["inspect", table.uri, "--html", str(wrong)])
        assert said in " ".join(capsys.readouterr().err.split())
    assert not (page.parent / "a").exists()
    for version in ("²", "9" * 23):
        assert main(["inspect", table.uri, "--version", version]) == 2
        assert "has no version" in capsys.readouterr().err
    assert main(["inspect", table.uri, "--html", str(page)]) == 0
    assert "<b>t" not in page.read_text()
    assert "&lt;b&gt;t" in page.read_text()
    assert json.loads(inspected(table.uri, capsys).model_dump_json())["rows"] == 5


def test_the_tables_of_a_folder_are_listed_and_other_verbs_name_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), rows=20, rejects=1)
    assert main(["inspect", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 2  # the heads, and no companion of the table
    assert listed[1].split()[:2] == [Path(table.uri).name, "20"]
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 20
    assert main(["rejects", str(tmp_path)]) == 2
    assert f"folder of tables: {Path(table.uri).name}; name one" in " ".join(capsys.readouterr().err.split())
