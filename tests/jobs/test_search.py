"""`mlake search`: one query or one per line of stdin, by words, over a table with a funnel."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from jobs.__main__ import main


def found(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("how", [[], ["--exact"], ["--dims", "64"], ["--recall", "0.8"]])
def test_words_find_the_text_that_says_them(uri: str, how: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", uri, "a singer buys a song", "--k", "3", "--json", *how]) == 0
    rows = found(capsys)
    assert len(rows) == 3
    assert rows[0]["text"] == "a singer buys a song"
    assert rows[0]["score"] == pytest.approx(1.0, abs=2e-3)


def test_each_line_of_stdin_is_a_query(
    uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["the dog finds its owner", "our government forgets new taxes"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n".join(asked) + "\n"))
    assert main(["search", uri, "-", "--k", "2", "--json"]) == 0
    rows = found(capsys)
    assert [row["query"] for row in rows] == [query for query in asked for _ in range(2)]
    assert [row["text"] for row in rows[::2]] == asked


def test_where_narrows_before_k(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", uri, "dog", "--where", "text LIKE '%ship%'", "--k", "4", "--json", "--columns", "text"]) == 0
    rows = found(capsys)
    assert len(rows) == 4
    assert all("ship" in str(row["text"]) and "id" not in row for row in rows)


def test_without_json_the_rows_are_a_table(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", uri, "cold water", "--k", "1", "--columns", "id", "text"]) == 0
    assert "cold water" in capsys.readouterr().out


def test_a_query_that_cannot_be_served_is_refused(uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["search", uri, "x", "--recall", "0.99999"]) == 2
    assert "confirms a recall of" in capsys.readouterr().err
    assert main(["search", uri, str(tmp_path / "missing.png")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["search", uri, "x", "--dims", "100"]) == 2
    assert "not in the ladder" in capsys.readouterr().err


def test_what_a_person_mistypes_is_refused(uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file.lance").write_text("x")
    for words, said in (
        ([uri, "x", "--where", "nope = 1"], "No field named nope"),
        ([uri, "x", "--columns", "nope"], "no column 'nope'"),
        ([uri, " "], "nothing but white space"),
        ([uri, "\udcff"], "is not valid Unicode"),
        ([str(tmp_path / "file.lance"), "x"], "is a file; a table is a folder"),
    ):
        assert main(["search", *words]) == 2
        assert said in capsys.readouterr().err


def test_names_of_columns_are_separated_by_commas_and_spaces(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["id, text"], ["id,text"], ["id", "text"]):
        assert main(["search", uri, "x", "--k", "1", "--json", "--columns", *given]) == 0
        assert [list(row) for row in found(capsys)] == [["query", "id", "text", "score"]]
    with pytest.raises(SystemExit):
        main(["search", uri, "x", "--columns", "id,,text"])
    assert "a name is empty; write them as id,text" in capsys.readouterr().err


def test_a_line_that_cannot_be_searched_is_named_and_the_others_are_answered(
    uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b"cold water\n\n\xff dog\nnowhere/a.png\na song\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
    assert main(["search", uri, "-", "--k", "1", "--json"]) == 1
    printed = capsys.readouterr()
    assert [json.loads(line)["query"] for line in printed.out.splitlines()] == ["cold water", "a song"]
    said = " ".join(printed.err.split())
    for part in (
        "line 3: the query '\\udcff dog' is not valid",
        "line 4: nowhere/a.png looks like",
        "not searched: 2 lines",
    ):
        assert part in said


def test_words_may_end_in_png_and_hold_markup(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in "the ship.png", "[/] and/or .png":
        assert main(["search", uri, words, "--k", "1"]) == 0
        printed = capsys.readouterr()
        assert f"no file {words} is here" in printed.err
        assert words in printed.out
