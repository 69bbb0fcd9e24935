"""Models of sentence-transformers give what that library gives, at every dim, for queries and documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    Qwen3Config,
    Qwen3Model,
)

from pipelines.embedding.embedder import WindowEncoder
from pipelines.embedding.feeder import Window
from pipelines.encoders import count_texts, load_encoder, load_preparer, make_space
from pipelines.vectors.matryoshka import cut
from schemas.config import EmbedConfig, EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, EncoderError, EncoderNotTrusted
from schemas.records import Side
from tests.support.tiny_encoders import (
    SIDES,
    TEXTS,
    encode,
    register_like,
    save_model,
    save_tokenizer,
    small_text_config,
)


@pytest.mark.parametrize("side", SIDES)
def test_qwen3_takes_the_last_token_and_instructs_queries_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: Side
) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare, causal=True)
    save_model(bare, Qwen3Model, small_text_config(Qwen3Config, num_key_value_heads=2, head_dim=8))
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32, "lasttoken"), Normalize()], device="cpu").save(
        str(whole)
    )
    spec = register_like(monkeypatch, "qwen3-embedding-0.6b", dims=(16, 32), any_from=4, max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(whole), side=side), TEXTS)

    instruct = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    prompt = instruct if side == "query" else None
    full = SentenceTransformer(str(whole), device="cpu").encode(TEXTS, prompt=prompt)
    for dim in (4, 11, 16, 32):
        recipe = functional.normalize(torch.from_numpy(full[:, :dim])).numpy()
        np.testing.assert_allclose(cut(ours, spec.ladder.check(dim)), recipe, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_embeddinggemma_keeps_the_dense_modules_of_its_authors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: Side
) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    torch.manual_seed(0)
    dense = [Dense(32, 96, bias=False, activation_function=torch.nn.Identity()), Dense(96, 24, bias=False)]
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32), *dense, Normalize()], device="cpu").save(
        str(whole)
    )
    spec = register_like(monkeypatch, "embeddinggemma-300m", dims=(8, 24), max_length=64)
    ours = encode(EncoderConfig(name=spec.name, path=str(whole), side=side), TEXTS)

    prompt = {"query": "task: search result | query: ", "document": "title: none | text: "}[side]
    full = SentenceTransformer(str(whole), device="cpu").encode(TEXTS, prompt=prompt)
    for dim in spec.dims:
        recipe = functional.normalize(torch.from_numpy(full[:, :dim])).numpy()
        np.testing.assert_allclose(cut(ours, dim), recipe, atol=1e-5)


def test_mmbert_is_pooled_by_its_own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare)
    save_model(bare, ModernBertModel, small_text_config(ModernBertConfig))
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32), Normalize()], device="cpu").save(str(whole))
    spec = register_like(monkeypatch, "mmbert-embed-32k-2d", dims=(8, 32), max_length=64)
    full = SentenceTransformer(str(whole), device="cpu").encode(TEXTS)
    ours = encode(EncoderConfig(name=spec.name, path=str(whole)), TEXTS)
    np.testing.assert_allclose(cut(ours, 8), functional.normalize(torch.from_numpy(full[:, :8])).numpy(), atol=1e-5)


def test_a_truncation_by_sentence_transformers_equals_our_cut_once_it_is_normalised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32), Normalize()], device="cpu").save(str(whole))
    spec = register_like(monkeypatch, "embeddinggemma-300m", dims=(8, 32), max_length=64)
    ours = cut(encode(EncoderConfig(name=spec.name, path=str(whole)), TEXTS), 8)
    theirs = SentenceTransformer(str(whole), device="cpu", truncate_dim=8)
    prompt = "title: none | text: "
    assert np.abs(np.linalg.norm(theirs.encode(TEXTS, prompt=prompt), axis=1) - 1).min() > 0.01
    np.testing.assert_allclose(theirs.encode(TEXTS, prompt=prompt, normalize_embeddings=True), ours, atol=1e-5)


def test_a_tokeniser_that_keeps_the_end_of_a_text_is_obeyed(tmp_path: Path) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare, max_length=12, truncation_side="left")
    save_model(bare, BertModel, small_text_config(BertConfig))
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32)], device="cpu").save(str(whole))
    config = EncoderConfig(name="sentence-transformers", path=str(whole))
    texts = [*TEXTS, "the goal of the team " * 200 + "song match prize", "the goal of the team " * 200 + "share rate"]
    theirs = SentenceTransformer(str(whole), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(encode(config, texts), theirs, atol=1e-5)
    preparer = load_preparer(config, LimitsConfig())
    assert count_texts(preparer, texts, preparer.prepare(texts)).cut_texts == sum(len(t.split()) > 10 for t in texts)


def test_the_layout_of_older_releases_is_read(tmp_path: Path) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare, max_length=9)
    save_model(bare, BertModel, small_text_config(BertConfig))
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32)], device="cpu").save(str(whole))
    inner = whole / "0_Transformer"
    inner.mkdir()
    for file in [file for file in whole.iterdir() if file.is_file() and file.name != "modules.json"]:
        file.rename(inner / file.name)
    modules = json.loads((whole / "modules.json").read_text())
    (whole / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, *modules[1:]]))
    theirs = SentenceTransformer(str(whole), device="cpu").encode(TEXTS, normalize_embeddings=True)
    ours = encode(EncoderConfig(name="sentence-transformers", path=str(whole)), TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_folder_without_its_pooling_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tokenizer(tmp_path)
    save_model(tmp_path, BertModel, small_text_config(BertConfig))
    with pytest.raises(EncoderError, match=r"modules\.json"):
        load_encoder(
            EncoderConfig(name=register_like(monkeypatch, "granite-embedding-311m-r2").name, path=str(tmp_path))
        )


class Adapted(Transformer):
    """A transformer with one adapter per task, chosen as jina-embeddings-v3 chooses its own."""

    forward_kwargs = {"task"}  # noqa: RUF012 - the library's own attribute

    def forward(self, features: dict[str, Any], task: str = "", **kwargs: Any) -> dict[str, Any]:
        out = super().forward(features, **kwargs)
        out["token_embeddings"] = out["token_embeddings"] * torch.linspace(1, len(task), 32)
        return out


@pytest.mark.parametrize("side", ["query", "document"])
def test_each_side_uses_its_adapter(tmp_path: Path, side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    SentenceTransformer(modules=[Adapted(str(bare)), Pooling(32)], device="cpu").save(str(whole))
    spec = register_like(monkeypatch, "jina-embeddings-v3", dims=(32,), max_length=64, runs_code=True)
    task = {"query": "retrieval.query", "document": "retrieval.passage"}[side]
    model = SentenceTransformer(str(whole), device="cpu", trust_remote_code=True)
    recipe = model.encode(TEXTS, task=task, prompt=spec.prompts[side], normalize_embeddings=True)
    other = model.encode(TEXTS, task="else", prompt=spec.prompts[side], normalize_embeddings=True)
    config = EncoderConfig(name=spec.name, path=str(whole), side=side)
    with pytest.raises(EncoderNotTrusted, match="trust_remote_code is false"):
        load_encoder(config)
    ours = encode(config.model_copy(update={"trust_remote_code": True}), list(TEXTS))
    np.testing.assert_allclose(ours, recipe, atol=1e-5)
    assert np.abs(ours - other).max() > 1e-3


@pytest.mark.parametrize("side", SIDES)
def test_any_model_of_the_library_in_a_folder_is_taken_as_its_files_say(tmp_path: Path, side: Side) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    modules = [Transformer(str(bare)), Pooling(32, "mean"), Dense(32, 24)]
    prompts = {"query": "question: ", "document": "passage: "}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(whole))
    config = EncoderConfig(name="sentence-transformers", path=str(whole), side=side)
    space = make_space(config)
    assert (space.ladder.dims, space.prompts) == ((24,), prompts)
    full = SentenceTransformer(str(whole), device="cpu").encode(TEXTS, prompt_name=side, normalize_embeddings=True)
    np.testing.assert_allclose(encode(config, TEXTS), full, atol=1e-5)
    with pytest.raises(ConfigError, match=r"no readable modules\.json"):
        make_space(EncoderConfig(name="sentence-transformers", path=str(bare)))


def test_the_width_of_pooled_modes_and_a_missing_length_are_read_from_the_files(tmp_path: Path) -> None:
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32, ("mean", "max"))], device="cpu").save(str(whole))
    (whole / "sentence_bert_config.json").unlink(missing_ok=True)
    config = EncoderConfig(name="sentence-transformers", path=str(whole))
    assert make_space(config).ladder.dims == (64,)
    assert encode(config, TEXTS).shape[1] == 64
    settings = {"shards": ["x"], "table": "t", "input": {"text": "text"}}
    wrong = settings | {"encoder": {"name": "all-MiniLM-L6-v2", "path": str(whole), "device": "cpu"}}
    preparer = load_preparer(config, LimitsConfig())
    prepared = preparer.prepare(TEXTS)
    window = Window(parts=[prepared], costs=[preparer.units(prepared)])  # type: ignore[list-item, arg-type]
    with pytest.raises(EncoderError, match="gives vectors of 64 dims, and its space has 384"):
        WindowEncoder(EmbedConfig.model_validate(wrong), 1).encode(window)


@pytest.mark.parametrize("side", SIDES)
def test_what_a_model_does_by_side_or_with_its_prompt_is_done_here_too(tmp_path: Path, side: Side) -> None:
    bare = tmp_path / "bare"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    torch.manual_seed(0)
    routed = Router.for_query_document([Dense(32, 32)], [Dense(32, 32)], default_route="query")
    models = {
        "router": [Transformer(str(bare)), Pooling(32), routed],
        "prompt is not pooled": [Transformer(str(bare)), Pooling(32, "mean", include_prompt=False)],
    }
    for name, modules in models.items():
        folder, prompts = tmp_path / name, {"query": "query: ", "document": "the document: "}
        SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(folder))
        model = SentenceTransformer(str(folder), device="cpu")
        encode_side = {"query": model.encode_query, "document": model.encode_document}[side]
        theirs = encode_side(TEXTS, normalize_embeddings=True)
        config = EncoderConfig(name="sentence-transformers", path=str(folder), side=side)
        np.testing.assert_allclose(encode(config, TEXTS), theirs, atol=1e-5, err_msg=name)
