"""`mlake funnel`: tune, show the stored card, or measure stages of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jobs.__main__ import main


def test_the_stored_card_is_printed(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["funnel", uri, "--card"]) == 0
    assert "recall@10" in capsys.readouterr().out


def test_a_funnel_in_the_lake_needs_an_index_first(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["funnel", uri, "--home", "lake"]) == 2
    assert "shortlist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "said"),
    [(None, "No such file"), (b"one line\n\n", "give more lines"), (b"\xff\xfe\xff\nfoo\n", "not UTF-8")],
)
def test_a_file_of_queries_that_is_of_no_use_is_refused(
    uri: str, lines: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = tmp_path / "queries.txt"
    if lines is not None:
        queries.write_bytes(lines)
    assert main(["funnel", uri, "--queries", str(queries)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_stages_of_ones_own_are_measured(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(uri, tmp_path / "t.lance")
    address = str(tmp_path / "t.lance")
    assert main(["funnel", address, "--home", "codes", "--stages", "64:80,256:int8:20,256:10"]) == 0
    said = capsys.readouterr().out
    assert "64 dims float16 keep 80 → 256 dims int8 keep 20 → 256 dims float16 keep 10, home: codes" in said
    assert "recall@10" in said
    assert main(["search", address, "a singer buys a song", "--k", "1", "--recall", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "a singer buys a song"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("64", "'64' is not a stage"),
        ("64:pq4:100,256:10", "is not a stage"),
        ("64:pq4x7:100,256:10", "divide the 64 dims"),
        ("64:100,256:pq4x64:50,256:10", "pq4 finds candidates in the first stage"),
        ("64:100,256:bit1:50,256:10", "bit1 finds candidates in the first stage"),
        ("256:10", "at least 2"),
        ("64:10,128:10", "256 dims float16"),
    ],
)
def test_stages_that_make_no_sense_are_refused(
    uri: str, stages: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["funnel", uri, "--stages", stages]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stages", "64:20,256:10", "--k", "5"], "--k 5: the last of --stages keeps 10"),
        (["--held-out", "100000"], "cannot be held out as queries: a fifth of the table's"),
        (["--queries", "q.txt", "--held-out", "5"], "--queries and --held-out both say where queries come from"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    uri: str,
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("q.txt").write_text("one\ntwo\nthree\n")
    assert main(["funnel", uri, *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
