"""`jobs funnel` and `jobs search` from the command line, over a table of real texts with real vectors."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from jobs.__main__ import main
from pipelines.encoders import load_encoder, load_preparer, make_space
from pipelines.tables.table import create_table
from pipelines.vectors.arrays import to_arrow
from schemas.config import EncoderConfig, LimitsConfig

ENCODER = EncoderConfig(name="wordllama", device="cpu")
SUBJECTS = (
    "the dog",
    "a singer",
    "our government",
    "this computer",
    "an old ship",
    "the river",
    "one player",
    "a bank",
)
VERBS = ("likes", "fears", "leaves", "finds", "follows", "buys", "forgets")
OBJECTS = ("the sea", "a song", "new taxes", "its owner", "the match", "cold water", "a red car", "good food")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    texts = [f"{s} {v} {o}" for s in SUBJECTS for v in VERBS for o in OBJECTS]
    preparer, encoder = load_preparer(ENCODER, LimitsConfig()), load_encoder(ENCODER)
    x_BD = encoder.encode(preparer.prepare(texts))  # type: ignore[arg-type]
    table = create_table(
        str(tmp_path_factory.mktemp("search") / "t.lance"),
        make_space(ENCODER),
        pa.schema([pa.field("text", pa.string())]),
    )
    rows = {
        "id": [f"s{n}" for n in range(len(texts))],
        "shard": [0] * len(texts),
        "text": texts,
        "vector": to_arrow(x_BD),
    }
    lance.write_dataset(pa.table(rows).cast(table.dataset.schema), table.uri, mode="append")
    assert main(["funnel", table.uri, "--recall", "0.9"]) == 0
    return table.uri


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


def test_people_get_a_table_and_the_card(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", uri, "cold water", "--k", "1", "--columns", "id", "text"]) == 0
    assert "cold water" in capsys.readouterr().out
    assert main(["funnel", uri, "--card"]) == 0
    assert "recall@10" in capsys.readouterr().out


def test_what_cannot_be_done_is_said(uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["search", uri, "x", "--recall", "0.99999"]) == 2
    assert "confirms a recall of" in capsys.readouterr().err
    assert main(["search", uri, str(tmp_path / "missing.png")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["funnel", uri, "--home", "lake"]) == 2
    assert "jobs shortlist" in capsys.readouterr().err
    assert main(["search", uri, "x", "--dims", "100"]) == 2
    assert "not in the ladder" in capsys.readouterr().err


def test_stages_of_ones_own_are_measured(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(uri, tmp_path / "t.lance")
    address = str(tmp_path / "t.lance")
    assert main(["funnel", address, "--home", "codes", "--stages", "64:80,256:int8:20,256:10"]) == 0
    said = capsys.readouterr().out
    assert "64 dims float16 keep 80 → 256 dims int8 keep 20 → 256 dims float16 keep 10, home: codes" in said
    assert "recall@10" in said
    assert main(["search", address, "a singer buys a song", "--k", "1", "--recall", "0.5", "--json"]) == 0
    assert found(capsys)[0]["text"] == "a singer buys a song"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("64", "'64' is no stage"),
        ("64:pq4:100,256:10", "is no stage"),
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
