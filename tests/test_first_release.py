"""What the first release stored opens with today's code, and gives what that release gave.

The fixtures and `expected.json` were made by that release; `make.py.txt` beside them is the script.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import fsspec
import lance
import numpy as np
import pytest

from pipelines.embedding.embedder import Embedder
from pipelines.embedding.plan import make_plan
from pipelines.encoders.registry import load_encoder, load_preparer, make_space
from pipelines.funnel import Funnel
from pipelines.shortlist.agreement import agreement
from pipelines.shortlist.lists import read_lists
from pipelines.tables.ledger import commit_leases, done_shards
from pipelines.tables.runs import read_journal
from pipelines.tables.table import VectorTable
from pipelines.training.checkpoints import load_checkpoint
from pipelines.training.samples import survey
from pipelines.training.train_head import read_trained
from pipelines.training.train_model import train_model
from schemas.checkpoints import HeadFile, ModelFile
from schemas.config import EmbedConfig, EncoderConfig, LimitsConfig, TrainConfig, TrustConfig
from schemas.errors import FunnelWarning
from schemas.metrics import MetricsFile
from schemas.records import Lease
from schemas.shortlists import shortlist_spec
from tests.support.tiny_training import shrink

STORED = Path(__file__).parent / "fixtures" / "first_release"
EXPECTED: dict[str, Any] = json.loads((STORED / "expected.json").read_text())
WRITTEN_AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TEXTS: dict[str, Any] = {
    "shards": "memory://first_release/texts.jsonl",
    "table": "texts.lance",
    "input": {"id": "id", "text": "text", "keep": ["animal"]},
    "encoder": {"name": "wordllama", "device": "cpu"},
    "limits": {"max_reject_fraction": 0.5},
}


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fixtures as the working directory: their paths are relative."""
    folder = tmp_path / "release"
    shutil.copytree(STORED, folder)
    monkeypatch.chdir(folder)
    return folder


def offer(name: str, text: str) -> None:
    """Put a shard into fsspec's memory store, with the time stamp that it had for the first release."""
    store: Any = fsspec.filesystem("memory")
    store.pipe(f"/first_release/{name}", text.encode())
    store.store[f"/first_release/{name}"].created = WRITTEN_AT


def as_query(query: str | list[float]) -> Any:
    return query if isinstance(query, str) else np.asarray(query, np.float32)


@pytest.mark.parametrize("name", EXPECTED["tables"])
def test_a_table_holds_and_finds_what_it_did(name: str, release: Path) -> None:
    table, was = VectorTable.open(f"{name}.lance"), EXPECTED["tables"][name]
    if table.space.path is not None:
        table = VectorTable.open(table.uri, trust=TrustConfig(encoder_path=table.space.path))
    assert table.space.fingerprint == was["fingerprint"]
    assert table.dataset.count_rows() == was["rows"]
    assert table.companion("rejects").count_rows() == was["rejects"]
    assert sorted(done_shards(table)) == was["shards"]
    assert list(table.prefix_dims) == was["prefix_dims"]
    for found in was["found"]:
        rows = table.search(as_query(found["query"]), 5, found["dim"])
        assert rows["id"].to_pylist() == found["ids"]
        assert rows["score"].to_pylist() == pytest.approx(found["scores"], abs=1e-3)


def test_embedding_goes_on_without_embedding_anything_again(release: Path) -> None:
    offer("texts.jsonl", (release / "shards" / "texts.jsonl").read_text())
    plan = make_plan(EmbedConfig.model_validate(TEXTS))
    assert (len(plan.shards), plan.todo) == (1, ())
    offer("more.jsonl", json.dumps({"id": "fox-0", "text": "the fox hunts at night", "animal": "fox"}) + "\n")
    config = EmbedConfig.model_validate(TEXTS | {"shards": [TEXTS["shards"], "memory://first_release/more.jsonl"]})
    plan = make_plan(config)
    assert plan.table is not None
    assert [shard.uri.rpartition("/")[2] for shard in plan.todo] == ["more.jsonl"]
    result = Embedder(config, 1).run(Lease(plan.todo))
    assert commit_leases(plan.table, [result], "today").rows == 1
    rows = VectorTable.open("texts.lance").search("a fox", 3)
    assert rows["id"].to_pylist()[0] == "fox-0"


def test_precomputed_vectors_are_named_as_they_were_too(release: Path) -> None:
    for name in ("brought", "precomputed"):
        space = make_space(EncoderConfig(name=name, path="ladder.json"))
        VectorTable.open("vectors.lance").check_space(space)


@pytest.mark.parametrize("home", ["memory", "codes", "lake"])
def test_a_funnel_answers_as_it_did(home: Any, release: Path) -> None:
    was = EXPECTED["funnels"][home]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the codebook .* is of the first release", FunnelWarning)
        funnel = Funnel.open("vectors.lance", home=home)
    assert funnel.plan.model_dump(mode="json", exclude={"reach", "doubt"}) == was["plan"]
    numbers = [line for line in was["card"].splitlines() if line[2:7].strip().isdigit()]
    assert [line for line in str(funnel.card).splitlines() if line[2:7].strip().isdigit()] == numbers
    rows = funnel.search(np.asarray(was["queries"], np.float32), k=5)
    assert rows["query"].to_pylist() == was["found"]["query"]
    scores = np.array(was["found"]["score"])
    if home == "codes":  # a few more candidates than the plan keeps are ranked since then: no rank may get worse
        assert (rows["score"].to_numpy() >= scores - 1e-3).all()
        return
    assert rows["id"].to_pylist() == was["found"]["id"]
    assert rows["score"].to_pylist() == pytest.approx(scores, abs=1e-3)


def test_a_rotation_is_read(release: Path) -> None:
    table = VectorTable.open("rotated.lance")
    assert table.rotation is not None
    assert table.rotation.fingerprint == table.space.rotation
    assert table.rotation.matrix_DD @ table.rotation.matrix_DD.T == pytest.approx(np.eye(32), abs=1e-5)


def test_a_shortlist_table_is_read(release: Path) -> None:
    lists, was = lance.dataset("vectors.shortlist.lance"), EXPECTED["shortlist"]
    spec = shortlist_spec(lists.schema, "lists")
    assert (spec.dims, spec.k, spec.exclude_self, spec.space) == ((8, 32), 5, True, "91c042feb52c4209")
    assert lists.count_rows() == was["rows"]
    assert lists.to_table(columns=["dim", "rank", "id"], filter="query_id = 'v000'").to_pydict() == was["v000"]
    assert agreement(*read_lists(lists)).dims == (8, 32)


def test_a_head_is_read_and_written_the_same() -> None:
    file = STORED / "head" / "encoder" / "head.json"
    head = HeadFile.from_file(file)
    assert (head.dims, list(head.towers)) == ((4, 8, 16), ["text"])
    assert head.to_json(indent=2) + "\n" == file.read_text()
    trained = read_trained(STORED / "head")
    assert trained is not None
    assert (trained.path, trained.held_out, trained.is_stopped) == (STORED / "head" / "encoder", 2, False)


def test_a_trained_model_embeds_as_it_did(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    was = EXPECTED["model"]
    config = EncoderConfig(name="matryoshka-model", path="model/encoder", device="cpu", dtype="float32")
    assert make_space(config).fingerprint == was["fingerprint"]
    prepared = load_preparer(config, LimitsConfig()).prepare([was["text"]])
    vector_D = load_encoder(config).encode(prepared)[0]  # type: ignore[arg-type]
    assert vector_D.tolist() == pytest.approx(was["vector"], abs=1e-4)
    file = Path("model/encoder/model.json")
    assert ModelFile.from_file(file).to_json(indent=2) + "\n" == file.read_text()


def test_a_finished_training_run_trains_nothing_more(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    offer("owls.jsonl", (release / "shards" / "owls.jsonl").read_text())
    config = TrainConfig.model_validate_json(Path("model/config.json").read_bytes())
    before = Path("model/checkpoint.pt").read_bytes()
    train_model(config, survey(config), lambda progress: False)
    assert Path("model/checkpoint.pt").read_bytes() == before
    state = load_checkpoint(Path("model"))
    assert state is not None
    assert json.loads(json.dumps(state["epochs"])) == EXPECTED["model"]["epochs"]


def test_the_metrics_of_an_evaluation_are_read_and_written_the_same() -> None:
    file, was = STORED / "evaluation" / "metrics.json", EXPECTED["evaluation"]
    metrics = MetricsFile.from_file(file)
    assert (len(metrics.rows), len(metrics.searches)) == (was["rows"], was["searches"])
    assert metrics.rows[0].model_dump() == was["first"]
    assert metrics.config.systems[0].database == "vectors.lance"
    texts = (metrics.to_json(), file.read_text())
    numbers = [{k: v for k, v in json.loads(text).items() if k != "config"} for text in texts]
    assert numbers[0] == numbers[1]


def test_the_journal_is_read(release: Path) -> None:
    runs = read_journal(VectorTable.open("texts.lance"))
    assert [{"run": run.run, "job": run.job, "state": run.state} for run in runs] == EXPECTED["journal"]
    assert EmbedConfig.model_validate(runs[0].config).encoder.name == "wordllama"
    assert runs[0].summary == {"shards": 1, "rows": 20, "rejects": 2}


@pytest.mark.parametrize("name", EXPECTED["spaces"])
def test_every_encoder_s_space_has_the_fingerprint_it_had(name: str) -> None:
    space = make_space(EncoderConfig(name=name))
    assert space.fingerprint == EXPECTED["spaces"][name]["fingerprint"]
    assert space.to_json() == EXPECTED["spaces"][name]["json"]
