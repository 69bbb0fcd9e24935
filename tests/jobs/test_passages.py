"""`mlake embed` with `[chunk]`: a row for each passage, searched by passage and grouped by document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.__main__ import main
from jobs.nightly import run as run_night
from pipelines.funnel import Funnel, Goal
from pipelines.tables.publication_log import generation_uri
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from schemas.config import load_config
from schemas.config.nightly import NightlyConfig
from schemas.errors import FunnelWarning
from schemas.publications import GateResult
from tests.support.corpus import settings, write_config
from tests.support.printed import Printed

WORDS = ["river", "stone", "water", "cloud", "fire", "sun", "moon", "tree", "leaf", "bird", "fish", "wolf", "night"]
CHUNK = {"tokens": 32, "overlap": 8}


def text_of(seed: int, sentences: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(" ".join(rng.choice(WORDS, 8)).capitalize() + "." for _ in range(sentences))


def write_shard(folder: Path, name: str, seed: int, documents: int = 12) -> dict[str, str]:
    texts = {f"{name}-{n}": text_of(seed + n, 1 + 10 * (n % 3)) for n in range(documents)}
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"id": key, "body": text, "title": key.upper()}) for key, text in texts.items()]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return texts


def config_of(folder: Path, table: str | None = None, **blocks: Any) -> str:
    own = {"input": {"id": "id", "text": "body", "keep": ["title", "body as passage_text", "body"]}, "chunk": CHUNK}
    blocks = {name: block for name, block in (own | blocks).items() if block is not None}
    config = settings(folder / "src", table or folder / "t.lance", **blocks)
    return str(write_config(folder / "c.toml", config))


def rows_of(uri: str | Path) -> list[dict[str, Any]]:
    found = VectorTable.open(uri).dataset.to_table()
    return found.drop_columns(["vector"]).to_pylist()


def test_documents_become_passages_that_are_searched_and_grouped(tmp_path: Path, without_ray: None) -> None:
    texts = write_shard(tmp_path / "src", "a", 0) | write_shard(tmp_path / "src", "b", 100)
    assert main(["embed", config_of(tmp_path)]) == 0
    rows = rows_of(tmp_path / "t.lance")
    assert {row["document"] for row in rows} == set(texts)
    for row in rows:
        assert row["id"] == f"{row['document']}#{row['passage']}"
        assert row["body"] == row["passage_text"] == texts[row["document"]][row["start"] : row["stop"]]
        assert row["title"] == row["document"].upper()
    for key, text in texts.items():
        seen = {at for row in rows if row["document"] == key for at in range(row["start"], row["stop"])}
        assert all(at in seen for at, character in enumerate(text) if not character.isspace())

    # The best passage of each document, as numpy finds it.
    table = VectorTable.open(tmp_path / "t.lance")
    whole = table.dataset.to_table(columns=["document", "vector"])
    query = to_numpy(whole["vector"])[7].astype(np.float32)
    scores = to_numpy(whole["vector"]).astype(np.float32) @ query
    best = dict.fromkeys(texts, -1.0)
    for key, score in zip(whole["document"].to_pylist(), scores.tolist(), strict=True):
        best[key] = max(best[key], score)
    expected = sorted(best.values(), reverse=True)[:6]
    found = table.search(query, k=6, group_by="document")
    assert found["score"].to_pylist() == pytest.approx(expected, abs=1e-3)
    assert len(set(found["document"].to_pylist())) == 6
    funnel = Funnel.build(table, Goal(recall=0.5, k=1), queries=to_numpy(whole["vector"])[::3].astype(np.float32))
    with pytest.warns(FunnelWarning, match="every row is compared"):  # six documents need more passages than its card
        again = funnel.search(query, k=6, group_by="document", recall=0.99)
    assert again["document"].to_pylist() == found["document"].to_pylist()

    # A changed document replaces all of its passages; nothing else is embedded again.
    assert main(["embed", config_of(tmp_path)]) == 0
    assert len(rows_of(tmp_path / "t.lance")) == len(rows)
    changed = write_shard(tmp_path / "src", "b", 500, documents=5)
    assert main(["embed", config_of(tmp_path)]) == 0
    after = rows_of(tmp_path / "t.lance")
    assert {row["document"] for row in after if row["document"].startswith("b")} == set(changed)
    assert [row for row in after if row["document"].startswith("a")] == [
        row for row in rows if row["document"].startswith("a")
    ]


def test_a_document_is_erased_as_a_whole_and_stays_erased(tmp_path: Path, without_ray: None, printed: Printed) -> None:
    write_shard(tmp_path / "src", "a", 0)
    table = str(tmp_path / "t.lance")
    assert main(["embed", config_of(tmp_path)]) == 0
    assert main(["publish", table]) == 0
    assert main(["delete", table, "--where", "id = 'a-2#1'"]) == 2
    assert "finds 1 of the " in (said := printed()), said
    assert "passages of the document 'a-2'" in said
    assert main(["delete", table, "--where", "document IN ('a-2', 'a-3')"]) == 0
    second = generation_uri(table, 2)
    # Cut anew, the document has other passages; none of them comes back.
    for uri, chunk in ((table, CHUNK), (second, {"tokens": 20, "overlap": 0})):
        assert main(["embed", config_of(tmp_path, uri, chunk=chunk), "--retry-rejects"]) == 0
        assert {row["document"] for row in rows_of(uri)} == {f"a-{n}" for n in range(12)} - {"a-2", "a-3"}
    assert len(rows_of(second)) > len(rows_of(table))


@pytest.mark.slow
def test_texts_that_are_cut_anew_have_a_generation_of_their_own(tmp_path: Path, without_ray: None) -> None:
    table = str(tmp_path / "t.lance")
    texts = write_shard(tmp_path / "src", "a", 0, documents=40) | write_shard(tmp_path / "src", "b", 500, documents=40)

    def night(**blocks: Any) -> tuple[str, int, dict[str, GateResult]]:
        """Run a night; return its state, its generation, and the gates that measured something."""
        config = load_config(NightlyConfig, Path(config_of(tmp_path, **blocks)))
        done = run_night(config, log="json")
        return done.state, done.generation, {gate.gate: gate for gate in done.audit if gate.measured is not None}

    longer, plain = {"chunk": {"tokens": 96, "overlap": 8}}, {"chunk": None}
    assert night()[:2] == ("published", 1)
    assert night()[0] == "nothing"
    state, generation, gates = night(**longer)
    assert (state, generation) == ("published", 2)
    assert (gates["row loss"].measured, gates["row loss"].said) == (0, "80 texts after 80")
    assert gates["overlap"].setting == "audit.min_overlap_new_space"
    assert "mean shift" not in gates
    rows = rows_of(generation_uri(table, 2))
    assert {row["document"] for row in rows} == texts.keys()
    assert len(rows) < len(rows_of(table))
    assert VectorTable.open(table, "prod").uri == generation_uri(table, 2)

    # The old cut has its generation still, and goes on with it; whole texts have a third.
    write_shard(tmp_path / "src", "c", 900)
    assert night()[:2] == ("published", 1)
    assert {row["document"] for row in rows_of(table)} == texts.keys() | {f"c-{n}" for n in range(12)}
    state, generation, gates = night(**plain)
    assert (state, generation, gates["row loss"].said) == ("published", 3, "92 texts after 92")

    # Texts of two files in three are gone: too many, however they are cut.
    (tmp_path / "src" / "a.jsonl").unlink()
    (tmp_path / "src" / "b.jsonl").unlink()
    state, generation, gates = night(chunk={"tokens": 20, "overlap": 0})
    assert (state, generation, gates["row loss"].said) == ("refused", 4, "12 texts after 92")


def test_what_cannot_be_cut_into_passages_is_refused(tmp_path: Path, without_ray: None, printed: Printed) -> None:
    write_shard(tmp_path / "src", "a", 0, documents=2)
    keep = {"id": "id", "text": "body", "keep": ["title as start"]}
    precomputed = {"input": {"id": "id", "vector": "v"}, "encoder": {"name": "precomputed", "dims": [4]}}
    for words, blocks in (
        ("chunk.tokens=5000, and wordllama takes 1024", {"chunk": {"tokens": 5000}}),
        ("makes a column 'start' of its own", {"input": keep}),
        ("[chunk] cuts texts, and this job embeds input.vector", precomputed),
        ("chunk.by", {"chunk": {"by": "page"}}),
    ):
        assert main(["embed", config_of(tmp_path, **blocks), "--dry-run"]) == 2
        assert words in printed()
    assert main(["embed", config_of(tmp_path)]) == 0
    config = settings(tmp_path / "src", tmp_path / "t.lance", input={"id": "id", "text": "body"})
    assert main(["embed", str(write_config(tmp_path / "whole.toml", config))]) == 2
    assert "[chunk] is not there, and was tokens = 32, overlap = 8, by = 'sentence'" in printed()
