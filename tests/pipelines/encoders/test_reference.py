"""An encoder that does not make its model's vectors is refused before a table is made, with what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

from jobs.__main__ import main
from pipelines.encoders.reference import compare_with_reference
from schemas.config import EncoderConfig
from schemas.errors import EncoderMismatch
from tests.support.corpus import settings, write_config, write_corpus
from tests.support.embedded_lakes import row_count, runs_of
from tests.support.embedding_server import running_server
from tests.support.printed import Printed
from tests.support.tiny_encoders import (
    PHOTOS,
    TEXTS,
    register_like,
    save_model,
    save_preprocessor,
    save_tokenizer,
    small_text_config,
)

PROMPTS = {"query": "search : ", "document": "the document : "}


def save(folder: Path, pooling: str = "mean") -> Path:
    """A model of sentence-transformers with prompts of its own."""
    bare, whole = folder / "bare", folder / "whole"
    save_tokenizer(bare)
    save_model(bare, BertModel, small_text_config(BertConfig))
    with torch.no_grad():  # so that positions and texts tell in every pooling
        model = SentenceTransformer(
            modules=[Transformer(str(bare)), Pooling(32, pooling), Normalize()], prompts=PROMPTS, device="cpu"
        )
    model.save(str(whole))
    return whole


def compared(folder: Path, texts: list[Any] = TEXTS, **facts: Any) -> Any:
    config = EncoderConfig.model_validate({"name": "transformers", "path": str(folder), "device": "cpu"} | facts)
    return compare_with_reference(config, texts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_that_is_its_reference_passes_in_every_dtype(tmp_path: Path, dtype: str) -> None:
    found = compared(save(tmp_path), pooling="mean", prompts=PROMPTS, dtype=dtype)
    assert found.cosine >= {"float32": 0.99999, "bfloat16": 0.999}[dtype]
    assert (found.samples, found.dtype, found.note) == (len(TEXTS), dtype, "")
    assert found.reference.startswith("sentence-transformers ")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"pooling": "cls"}, "what differs is pooling, cls here and mean in the reference"),
        ({"pooling": "last"}, "what differs is pooling, last here and mean in the reference"),
    ],
)
def test_a_wrong_pooling_is_refused_and_named(tmp_path: Path, facts: dict[str, str], said: str) -> None:
    folder = save(tmp_path)
    with pytest.raises(EncoderMismatch, match=said):
        compared(folder, prompts=PROMPTS, **facts)


def test_a_registered_rule_that_is_not_the_models_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path)
    right = {"pooling": "mean", "dims": (32,), "max_length": 64}
    for changes, said in (
        (
            {"prompts": {"document": "the document : "}},
            r"for a query.*the prompt, '' here and 'search : ' in",
        ),
        ({"prompts": PROMPTS, "steps": ("layer_norm", "l2")}, ""),
    ):
        spec = register_like(monkeypatch, "modernbert-embed-base", **right | changes)
        config = EncoderConfig(name=spec.name, path=str(folder), device="cpu")
        if said:
            with pytest.raises(EncoderMismatch, match=said):
                compare_with_reference(config, TEXTS)
        else:  # a step of the card that the library's modules lack is applied to both
            found = compare_with_reference(config, TEXTS)
            assert found is not None
            assert found.cosine >= 0.99999


def test_a_model_without_a_reference_is_not_compared_and_one_that_fails_is_said(tmp_path: Path) -> None:
    save(tmp_path)
    assert compared(tmp_path / "bare", pooling="mean") is None  # its files do not say how it is pooled
    assert compare_with_reference(EncoderConfig(name="wordllama"), TEXTS) is None
    (tmp_path / "whole" / "modules.json").write_text("[]")
    assert "Error" in compared(tmp_path / "whole", pooling="mean").note


def test_pictures_are_compared_with_the_librarys_own_processor(tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8)
    save_model(tmp_path, Dinov2Model, config)
    rule: dict[str, Any] = {"do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True}
    rule |= {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "resample": 3}
    rule |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "BitImageProcessor"}
    save_preprocessor(tmp_path, **rule)
    found = compare_with_reference(EncoderConfig(name="transformers", path=str(tmp_path), device="cpu"), PHOTOS)
    assert found is not None
    assert (found.note, found.cosine >= 0.99999) == ("", True)


def test_a_server_is_compared_with_the_model_that_it_says_it_runs(
    tmp_path: Path, without_ray: None, printed: Printed
) -> None:
    folder = save(tmp_path)
    model = SentenceTransformer(str(folder), device="cpu")
    description = tmp_path / "served.json"
    corpus = write_corpus(tmp_path / "src", 1, 30)
    config = write_config(
        tmp_path / "config.toml",
        settings(tmp_path / "src", tmp_path / "t.lance", encoder={"name": "served", "path": str(description)}),
    )
    with running_server() as server:
        facts = {"api": "openai", "url": server.url, "model": "m", "dims": [32], "reference": str(folder)}
        description.write_text(json.dumps(facts))
        server.vector_of = lambda text: model.encode(text, prompt="").tolist()
        assert main(["embed", str(config)]) == 2
        words = printed()
        assert "what differs is the prompt, '' here and 'the document : ' in the reference" in words
        assert row_count(tmp_path) == 0
        description.write_text(json.dumps(facts | {"input_types": PROMPTS}))
        assert main(["embed", str(config)]) == 0
    said = runs_of(tmp_path)[0]["summary"]
    equality = (json.loads(said) if isinstance(said, str) else said)["equality"]
    assert (equality["samples"], equality["note"]) == (8, "")
    assert equality["cosine"] >= 0.99999
    assert row_count(tmp_path) == sum(map(len, corpus.values()))
    assert np.isclose(equality["cosine"], 1, atol=1e-5)
