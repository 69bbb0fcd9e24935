"""`mlake evaluate`: tables, image folders and BEIR folders give metrics.json and a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import ndcg_score

from jobs.__main__ import main
from pipelines.encoders import load_encoder, load_preparer
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import cut
from schemas.config import EncoderConfig, LimitsConfig
from tests.support.labelled_tables import systems, write_systems

ACTORS = "[cluster]\nactors = 1\ncpus_per_actor = 0.5\ndecode_threads = 1\n"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: hundreds of tiny fits with many threads take minutes on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def evaluate(folder: Path, toml: str, *overrides: str) -> dict[str, Any]:
    """Run the command and return metrics.json."""
    config = folder / "evaluate.toml"
    config.write_text(f'folder = "{folder / "out"}"\n{toml}')
    assert main(["evaluate", str(config), *(word for one in overrides for word in ("--set", one))]) == 0
    found: dict[str, Any] = json.loads((folder / "out" / "metrics.json").read_text())
    return found


def values(found: Mapping[str, Any], part: str = "rows") -> dict[tuple[str, int, str], float]:
    return {(row["system"], row["dim"], row["metric"]): row["value"]["mean"] for row in found[part]}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_systems(folder, rows=120, queries=40)
    return folder


def test_tables_go_in_and_numbers_and_a_page_come_out(
    lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(tmp_path, f"baselines = []\n{systems(lake)}", "measure.draws=20", "measure.linear=false")
    assert (found["queries"], found["rows_searched"]) == (40, 120)
    assert values(found)[("MRL", 16, "1-NN")] > 0.6
    assert "mAP@10 by dims" in (tmp_path / "out" / "report.html").read_text()
    said = " ".join(capsys.readouterr().out.split())
    assert "40 queries over 120 rows" in said
    assert "report.html" in said
    again = ["evaluate", str(tmp_path / "evaluate.toml"), "--json"]
    assert main([*again, "--set", "measure.draws=20", "--set", "measure.linear=false"]) == 0
    assert json.loads(capsys.readouterr().out) == found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, stripes and blobs, as an ImageFolder."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 10)):
        for label in ("blob", "stripe"):
            for number in range(count):
                pixels = rng.integers(0, 60, (40, 40, 3))
                at = rng.integers(0, 20)
                pixels[(slice(at, at + 15), slice(at, at + 15)) if label == "blob" else slice(at % 4, None, 4)] += 180
                path = root / part / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.mark.usefixtures("without_ray")
def test_an_image_folder_is_embedded_measured_and_corrupted(pictures: Path, tmp_path: Path) -> None:
    toml = f"""
baselines = ["pca"]
[data]
images = "{pictures}"
[[systems]]
name = "rotated"
encoder = {{ name = "efficientnet-lite0" }}
rotation = {{ kind = "pca" }}
dims = [2, 8, 1280]
[measure]
draws = 50
recall = []
[robustness]
kinds = ["gaussian-noise", "jpeg"]
severities = [1]
pictures = 10
pixels = 40
{ACTORS}"""
    found = evaluate(tmp_path, toml)
    assert (found["queries"], found["rows_searched"]) == (20, 16)
    by_key = values(found)
    assert by_key[("rotated", 8, "1-NN")] > 0.8
    assert by_key[("rotated", 1280, "1-NN")] == pytest.approx(by_key[("rotated pca", 1280, "1-NN")], abs=0.051)
    tables = sorted((tmp_path / "out" / "tables").glob("*/*.lance"))
    database, queries = (
        next(
            VectorTable.open(str(path)) for path in tables if path.name.startswith(f"{part}-") and "." not in path.stem
        )
        for part in ("database", "queries")
    )
    assert database.space.rotation is not None
    assert queries.space.rotation is None
    corrupted = {metric.partition(", ")[2] for _, _, metric in values(found, "corrupted")}
    assert corrupted == {"clean/0", "gaussian-noise/1", "jpeg/1", "corrupted"}
    assert "Under corruptions" in (tmp_path / "out" / "report.html").read_text()
    written = [path.stat().st_mtime_ns for path in tables]
    assert values(evaluate(tmp_path, toml)) == by_key
    assert [path.stat().st_mtime_ns for path in tables] == written, "a second run embeds nothing"


TOPICS = {
    "sea": "harbour sailor anchor tide lighthouse vessel",
    "sky": "cloud thunder eagle aeroplane sunset star",
    "food": "bread cheese soup recipe kitchen butter",
}


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny test set in BEIR layout; one query is a document of its own, one judged document is not in the corpus."""
    root, rng = tmp_path_factory.mktemp("beir"), np.random.default_rng(0)
    documents = [
        {"_id": f"{topic}{n}", "title": topic, "text": " ".join(rng.choice(words.split(), 4)), "metadata": {}}
        for topic, words in TOPICS.items()
        for n in range(8)
    ]
    queries = [{"_id": f"q-{topic}", "text": words} for topic, words in TOPICS.items()]
    queries += [{"_id": "sea0", "text": f"{documents[0]['text']}"}, {"_id": "unjudged", "text": "nothing"}]
    judged = [(f"q-{topic}", f"{topic}{n}", 1 + n % 3) for topic in TOPICS for n in range(8)]
    judged += [("sea0", "sea1", 1), ("sea0", "gone", 1), ("sea0", "sky1", 0)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (root / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (root / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t{gain}" for q, d, gain in judged)]
    (root / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.usefixtures("without_ray")
def test_a_beir_folder_gives_ndcg_and_recall_by_dim(beir: Path, tmp_path: Path) -> None:
    toml = f"""
baselines = ["truncation"]
[data]
beir = "{beir}"
[[systems]]
name = "wordllama"
encoder = {{ name = "wordllama" }}
[[systems]]
name = "passages"
encoder = {{ name = "wordllama" }}
chunk = {{ tokens = 8, overlap = 0, by = "tokens" }}
[measure]
draws = 50
recall = [5]
[retrieval]
keep = 12
keeps = [16, 12]
{ACTORS}"""
    found = evaluate(tmp_path, toml)
    assert (found["queries"], found["rows_searched"]) == (4, 24)
    documents = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    texts = [f"{one['title']} {one['text']}" for one in documents]
    config = EncoderConfig(name="wordllama", device="cpu")
    preparer, encoder = load_preparer(config, LimitsConfig()), load_encoder(config)
    x_ND = encoder.encode(preparer.prepare(texts))  # type: ignore[arg-type]
    q_QD = encoder.encode(preparer.prepare(list(TOPICS.values())))  # type: ignore[arg-type]
    gains = np.array([[1 + n % 3 if t == u else 0 for u in range(3) for n in range(8)] for t in range(3)])
    by_topic = ndcg_score(gains, cut(q_QD, 64) @ cut(x_ND, 64).T, k=10)
    own = values(found)[("wordllama", 64, "nDCG@10")] * 4 - by_topic * 3  # what is left for the query `sea0`
    assert 0 <= own <= 1 / (1 + 1 / np.log2(3)) + 0.02
    assert {metric for _, _, metric in values(found)} == {"nDCG@10", "recall@5"}
    assert found["adaptive"] is None
    made = min((tmp_path / "out" / "tables").glob("passages-*/database-*.lance"), key=lambda path: len(path.name))
    rows = VectorTable.open(made).dataset.to_table(columns=["document", "vector"])
    assert len(rows) > 24
    names, p_ND = np.array(rows["document"]), to_numpy(rows["vector"]).astype(np.float32)
    scores_QN = cut(q_QD, 64) @ cut(p_ND, 64).T
    best_QN = np.stack([scores_QN[:, names == one["_id"]].max(axis=1) for one in documents], axis=1)
    own = values(found)[("passages", 64, "nDCG@10")] * 4 - ndcg_score(gains, best_QN, k=10) * 3
    assert 0 <= own <= 1 / (1 + 1 / np.log2(3)) + 0.02
    assert "nDCG@10 by MFLOPs" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", ["tables", "images", "beir", "models"])
def test_the_configs_that_are_shipped_are_valid(name: str) -> None:
    from schemas.config import load_config
    from schemas.config.evaluation import EvaluateConfig

    root = Path(__file__).parents[2] / "jobs" / "configs" / "evaluate"
    assert load_config(EvaluateConfig, root / f"{name}.toml").systems
