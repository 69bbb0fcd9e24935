"""`mlake encoders`: every model by name with its rule, and all that is known of one."""

from __future__ import annotations

import json

import pytest

from jobs.__main__ import main
from pipelines.encoders import REGISTRY


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_every_encoder_is_listed_with_its_whole_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["encoders"]) == 0
    narrow = capsys.readouterr().out.splitlines()
    assert max(map(len, narrow[:-1])) <= 80
    assert REGISTRY.keys() <= {line.split()[0] for line in narrow if line.strip()}
    monkeypatch.setenv("COLUMNS", "220")
    assert main(["encoders"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "any ≥32" in lines["qwen3-embedding-0.6b"]
    assert "rotate" in lines["all-MiniLM-L6-v2"]
    assert "CC-BY-NC-4.0" in lines["jina-clip-v2"]
    assert "needs open_clip" in lines["openclip-vit-b-32-laion2b"]


def test_only_matryoshka_encoders_are_listed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders", "--matryoshka"]) == 0
    said = capsys.readouterr().out
    assert "wordllama" in said
    assert "bge-m3" not in said


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
