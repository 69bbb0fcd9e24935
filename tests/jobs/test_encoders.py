"""`mlake encoders`: every model by name with its rule, and all that is known of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.__main__ import main
from pipelines.encoders import REGISTRY


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    assert main(["encoders", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    end = next(at for at, line in enumerate(lines) if line.startswith("dims: "))
    return {line.split()[0]: line for line in lines[1:end]}


def test_every_encoder_is_a_line_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(capsys)
    assert lines.keys() == REGISTRY.keys()
    assert max(map(len, lines.values())) <= 80
    assert "32 to 1024" in lines["qwen3-embedding-0.6b"]
    assert "384, rotate" in lines["all-MiniLM-L6-v2"]
    assert "CC-BY-NC-4.0       hub ?" in lines["jina-clip-v2"]
    assert lines["openclip-vit-b-32-laion2b"].split()[-1] == "no"


def test_the_list_is_filtered_by_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, "--like", "VOYAGE-4", "--modality", "vector").keys() == {
        "voyage-4-large",
        "voyage-4",
        "voyage-4-lite",
    }
    few = listed(capsys, "--matryoshka", "--commercial", "--verified", "--here")
    assert {"wordllama", "modernbert-embed-base"} <= few.keys()
    assert not {"bge-m3", "jina-embeddings-v3", "voyage-4-nano", "openclip-vit-b-32-laion2b"} & few.keys()
    assert main(["encoders", "--json", "--modality", "image", "--matryoshka"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"] for row in rows} >= {"qwen3-vl-embedding-2b", "jina-clip-v2"}
    assert all(row["is_verified"] is False for row in rows)


def test_one_encoder_is_described_with_prompts_pin_and_terms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders", "embeddinggemma-300m"]) == 0
    said = capsys.readouterr().out
    assert main(["encoders", "nomic-embed-text-v1.5"]) == 0
    assert "mean → layer_norm → slice → L2" in capsys.readouterr().out
    assert main(["encoders", "--json", "--matryoshka"]) == 0
    listed = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed["wordllama"]["dims"] == [64, 128, 256]
    assert "bge-m3" not in listed
    for fact in ("task: search result | query: ", "float32, bfloat16", "64614b0b8b64", "gated"):
        assert fact in said


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders", "bgem3"]) == 2
    assert "did you mean 'bge-m3'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wordllama", "efficientnet-lite0", "text-embedding-3-small"])
def test_the_packaged_encoders_keep_their_promises(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders", "check", name]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 8
    assert all(line.startswith("ok ") for line in said)


def test_an_encoder_that_looks_at_its_neighbours_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "encoder.json").write_text('{"class": "model:Neighbours", "revision": "1", "dims": [3]}')
    (tmp_path / "model.py").write_text(
        "import numpy as np\nclass Neighbours:\n    def __init__(self, device): pass\n"
        "    def encode(self, inputs, side):\n"
        "        return np.array([[len(t), 1, sum(map(len, inputs)) / len(inputs)] for t in inputs])\n"
    )
    assert main(["encoders", "check", "own", "--path", str(tmp_path)]) == 1
    broken = [line for line in capsys.readouterr().out.splitlines() if line.startswith("NO")]
    assert [line[4:23] for line in broken] == ["alone as in a batch"]
    assert main(["encoders", "check"]) == 2
    assert main(["encoders", "wordllama", "--path", "x"]) == 2
