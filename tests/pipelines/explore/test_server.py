from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pipelines.explore.explorer import Explorer
from pipelines.explore.server import application
from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.ledger import commit_leases
from pipelines.vectors.arrays import to_arrow
from schemas.errors import InputError
from schemas.records import LeaseResult, ShardCount
from tests.support.small_tables import SPACE, a_shard, commit_shards, new_table, vectors
from tests.support.wordllama_tables import wordllama_table

_TEXTS = ["a red heart", "<img src=x onerror=alert(1)>", "the night sky", "stars", "a spider", "\u202egnp.exe\x1b[31m"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    table = wordllama_table(tmp_path_factory.mktemp("explore") / "t.lance", _TEXTS)
    return TestClient(application(Explorer(table, max_bytes=1 << 20)), base_url="http://127.0.0.1")


def _ask(page, **question):
    return page.post("/api/ask", json=question).json()["query"]


def _hits(page, query, /, **settings):
    return page.get("/api/hits", params={"query": query, "dim": 64, "candidates": 3, "k": 2} | settings)


def test_a_question_its_sliders_and_more_like_this(page):
    described = page.get("/api/table").json()
    assert (described["rows"], described["dims"], described["has_pictures"]) == (6, [64, 128, 256], False)
    query = _ask(page, words="a red heart")
    found = _hits(page, query).json()
    assert found["hits"][0]["columns"] == {"id": "s0", "text": "a red heart"}
    assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert found["bytes"] == 2 * (6 * 64 + 3 * 256)
    assert [
        point["dim"] for point in page.get("/api/sweep", params={"query": query, "candidates": 6, "k": 2}).json()
    ] == [64, 128, 256]
    like = _ask(page, like=found["hits"][1]["row"])
    assert _hits(page, like).json()["hits"][0]["row"] == found["hits"][1]["row"]
    filtered = _hits(page, query, where="text LIKE '%sky%'").json()
    assert [hit["columns"]["id"] for hit in filtered["hits"]] == ["s2"]
    assert _hits(page, query, where="shard = 9").json()["hits"] == []


def test_refusals_are_sentences_and_nothing_else_reaches_the_page(page):
    query = _ask(page, words="stars")
    for settings, said in [
        ({"dim": 63}, "not in the ladder"),
        ({"where": "nonsense = 1"}, "cannot be used"),
        ({"where": "text = 'a'; DROP TABLE t"}, "cannot be used"),
        ({"k": 0}, "k: "),
        ({"candidates": 10**9}, "candidates: "),
        ({"query": "other"}, "ask it again"),
        ({"spam": 1}, "spam: "),
    ]:
        answer = _hits(page, query, **settings)
        assert answer.status_code == 400, settings
        assert said in answer.json()["error"]
    assert page.post("/api/ask", json={"words": ""}).status_code == 400
    assert page.post("/api/ask", json={}).status_code == 400
    assert page.post("/api/ask", content=b"x", headers={"content-type": "text/plain"}).status_code == 415
    assert "image" in page.post("/api/ask", content=b"x", headers={"content-type": "image/png"}).json()["error"]
    assert page.post("/api/ask", content=b"x" * (33 << 20), headers={"content-type": "image/png"}).status_code == 413
    assert page.get("/api/table", headers={"host": "evil.example"}).status_code == 400
    assert "default-src 'self'" in page.get("/").headers["content-security-policy"]
    assert b"innerHTML" not in page.get("/page.js").content


def test_the_first_rows_are_there_before_any_question_and_their_text_cannot_turn_the_page_around(page, tmp_path):
    rows = page.get("/api/rows", params={"k": 6}).json()
    assert [row["columns"]["text"] for row in rows] == [*_TEXTS[:-1], "\ufffdgnp.exe\u241b[31m"]
    assert page.get("/api/rows", params={"k": 1, "where": "id = 's3'"}).json()[0]["columns"]["text"] == "stars"
    assert page.get("/api/rows", params={"k": 1, "where": "id = 'none'"}).json() == []
    assert "cannot be used" in page.get("/api/rows", params={"k": 1, "where": "\u202e = 1"}).json()["error"]
    assert page.get("/api/rows", params={"k": 0}).status_code == 400

    space = SPACE.model_copy(update={"encoder": "brought"})  # as spaces name it since the first release
    table = _table_of(tmp_path, "given", pa.string(), ["a", "b"], space)
    precomputed = TestClient(application(Explorer(table, max_bytes=1 << 20)), base_url="http://localhost")
    described = precomputed.get("/api/table").json()
    assert (described["encoder"], described["takes_questions"]) == ("precomputed", False)
    like = _ask(precomputed, like=precomputed.get("/api/rows", params={"k": 1}).json()[0]["row"])
    assert _hits(precomputed, like, dim=8).json()["hits"][0]["score"] == pytest.approx(1, abs=1e-3)


def test_rejects_and_history_of_the_table(tmp_path):
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), a_shard("b"), rejects=2)
    page = TestClient(application(Explorer(table.refresh(), max_bytes=1 << 20)), base_url="http://localhost")
    rejects = page.get("/api/rejects").json()
    assert (rejects["total"], rejects["reasons"]) == (4, [["empty_text", 4]])
    assert rejects["first"][0]["uri"] == "/src/a.jsonl"
    assert page.get("/api/history").json() == []


def test_a_table_without_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="no rows yet"):
        Explorer(new_table(tmp_path), max_bytes=1 << 20)


def _png(colour):
    data = io.BytesIO()
    Image.new("RGB", (600, 300), colour).save(data, "PNG")
    return data.getvalue()


def _table_of(folder, name, kind, values, space=SPACE):
    table = create_table(str(folder / f"{name}.lance"), space, pa.schema([pa.field("picture", kind)]))
    shard = a_shard(name)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([f"{i}" for i in range(len(values))]),
            pa.array(np.full(len(values), shard.id)),
            pa.array(values, kind),
            to_arrow(vectors(len(values), 0)),
        ],
        names=["id", "shard", "picture", "vector"],
    )
    result = LeaseResult((ShardCount(shard, len(values), 0),), write_fragments(table, [batch]), (), len(values))
    commit_leases(table, [result], "test")
    return table.refresh()


def _rows(table):
    return table.dataset.scanner(columns=["_rowid"]).to_table()["_rowid"].to_pylist()


def test_pictures_come_from_bytes_or_from_files_below_the_named_folder_only(tmp_path):
    table = _table_of(tmp_path, "bytes", pa.binary(), [b"no picture", _png("red"), None])
    page = TestClient(application(Explorer(table, max_bytes=1 << 20)), base_url="http://localhost")
    assert page.get("/api/table").json()["columns"] == ["id"]
    statuses = [page.get(f"/thumbnails/{row}") for row in _rows(table)]
    assert [answer.status_code for answer in statuses] == [404, 200, 404]
    assert Image.open(io.BytesIO(statuses[1].content)).size == (256, 128)
    assert page.get("/thumbnails/999").status_code == 404

    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(_png("blue"))
    (folder / "notes.txt").write_bytes(_png("blue"))
    (tmp_path / "secret.png").write_bytes(_png("black"))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    names = [
        "a.png",
        str(folder / "a.png"),
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "notes.txt",
        "\0",
    ]
    table = _table_of(tmp_path, "paths", pa.string(), names)
    without = Explorer(table, max_bytes=1 << 20)
    assert [without.thumbnail(row) for row in _rows(table)] == [None] * 7
    explorer = Explorer(table, max_bytes=1 << 20, images=str(folder))
    assert [explorer.thumbnail(row) is not None for row in _rows(table)] == [True, True, *[False] * 5]
    with pytest.raises(InputError, match="no such folder"):
        Explorer(table, max_bytes=1 << 20, images=str(tmp_path / "nowhere"))
