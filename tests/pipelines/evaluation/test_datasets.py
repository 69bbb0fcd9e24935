"""ImageFolder and BEIR folders are read; errors name file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.evaluation.datasets import (
    list_images,
    read_beir,
    write_corrupted,
    write_documents,
    write_images,
    write_queries,
)
from schemas.errors import InputError, ShardNotFound


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    corpus = [{"_id": "d1", "title": "Owls", "text": "hunt at night"}, {"_id": 2, "text": "no title"}]
    queries = [{"_id": "q1", "text": "night birds"}, {"_id": "q2", "text": "not judged"}]
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, corpus)).encode()))
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n\n")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\t2\t0\n")
    return tmp_path


def _rows(pattern: str) -> list[dict[str, str]]:
    return [row for path in sorted(Path(pattern).parent.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_beir_folder_is_read_whole(beir: Path) -> None:
    found = read_beir(beir, "dev")
    assert found.judged == {"q1": {"d1": 2}}
    documents = _rows(write_documents(found, beir / "shards" / "corpus"))
    assert documents == [{"id": "d1", "text": "Owls hunt at night"}, {"id": "2", "text": "no title"}]
    assert _rows(write_queries(found, beir / "shards" / "queries")) == [{"id": "q1", "text": "night birds"}]


def test_judgements_may_lie_in_one_file_of_four_columns(beir: Path) -> None:
    (beir / "qrels.tsv").write_text("q1\t0\td1\t1\n")
    assert read_beir(beir, "test").judged == {"q1": {"d1": 1}}


def test_shards_are_written_once_and_anew_when_the_source_has_changed(beir: Path) -> None:
    found = read_beir(beir, "dev")
    first = write_documents(found, beir / "shards")
    stamp = next(Path(first).parent.glob("*.parquet")).stat().st_mtime_ns
    assert write_documents(found, beir / "shards") == first
    assert next(Path(first).parent.glob("*.parquet")).stat().st_mtime_ns == stamp
    (beir / "corpus.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "d1", "text": "other"}'))
    assert write_documents(found, beir / "shards") != first


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("qrels/dev.tsv", "q1\td1\t1\nq1 d1 1\n", "line 2"),
        ("qrels/dev.tsv", "q1\td1\t0\n", "no document with a score above 0"),
        ("queries.jsonl", '{"_id": "q1"}\n', "line 1: KeyError: 'text'"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}\n[1]\n', "line 2: TypeError"),
        ("queries.jsonl", '{"_id": "q1", "text"\n', "line 1: JSONDecodeError"),
    ],
)
def test_what_is_malformed_is_named_by_file_and_line(beir: Path, file: str, content: str, said: str) -> None:
    (beir / file).write_text(content)
    with pytest.raises(InputError, match=said):
        write_queries(read_beir(beir, "dev"), beir / "shards")


def test_a_split_that_is_not_there_is_refused_with_those_that_are(beir: Path) -> None:
    with pytest.raises(ShardNotFound, match=r"did you mean 'dev'.*splits are: dev"):
        read_beir(beir, "devel")


def test_pictures_come_with_the_folder_they_lie_in(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/deep/b.JPG", "dog/c.png"):
        path = tmp_path / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), "teal").save(path)
    (tmp_path / "val" / "cat" / "notes.txt").write_text("no picture")
    found = list_images(tmp_path / "val")
    assert [(one.path.name, one.label) for one in found] == [("a.png", "cat"), ("b.JPG", "cat"), ("c.png", "dog")]
    rows = _rows(write_images(found, tmp_path, tmp_path / "shards"))
    assert (rows[0]["id"], rows[0]["label"]) == ("val/cat/a.png", "cat")
    changed = _rows(write_corrupted(found, tmp_path, tmp_path / "bad", [("contrast", 5), ("jpeg", 1)], 16))
    assert len(changed) == 3 * 3
    assert {row["corruption"] for row in changed} == {"clean/0", "contrast/5", "jpeg/1"}
    assert len({row["id"] for row in changed}) == 9


def test_a_picture_that_cannot_be_read_is_left_to_the_embedding(tmp_path: Path) -> None:
    (tmp_path / "val" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat" / "bad.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "val" / "cat" / "good.png")
    rows = _rows(write_corrupted(list_images(tmp_path / "val"), tmp_path, tmp_path / "bad", [("jpeg", 1)], 16))
    assert {row["id"].rpartition("/")[2] for row in rows} == {"good.png"}


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "valid" / "cat").mkdir(parents=True)
    with pytest.raises(ShardNotFound, match="holds no images"):
        list_images(tmp_path / "valid")
    with pytest.raises(ShardNotFound, match=r"did you mean 'valid'\?"):
        list_images(tmp_path / "val")
