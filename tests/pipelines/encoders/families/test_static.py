"""Static models give what sentence-transformers gives, from the registry and from a folder of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from torch.nn import functional

from pipelines.encoders import BadSample, count_texts, load_preparer, make_space
from pipelines.vectors.matryoshka import cut
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError
from schemas.records import TextCounts
from tests.support.tiny_encoders import TEXTS, encode, register_like, save_tokenizer


def save_static(folder: Path) -> SentenceTransformer:
    torch.manual_seed(0)
    save_tokenizer(folder / "bare")
    tokenizer = Tokenizer.from_file(str(folder / "bare" / "tokenizer.json"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=32)], device="cpu")
    model.save(str(folder / "whole"))
    return SentenceTransformer(str(folder / "whole"), device="cpu")


@pytest.mark.parametrize("like", ["static-retrieval-mrl-en-v1", "static-similarity-mrl-v1"])
def test_a_static_model_is_the_mean_of_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, like: str) -> None:
    full = save_static(tmp_path).encode(TEXTS)
    spec = register_like(monkeypatch, like, dims=(4, 8, 32))
    ours = encode(EncoderConfig(name=spec.name, path=str(tmp_path / "whole")), TEXTS)
    for dim in spec.dims:
        recipe = functional.normalize(torch.from_numpy(full[:, :dim])).numpy()
        np.testing.assert_allclose(cut(ours, dim), recipe, atol=1e-6)


def test_a_static_folder_of_the_users_own_is_read_as_it_is(tmp_path: Path) -> None:
    full = save_static(tmp_path).encode(TEXTS, normalize_embeddings=True)
    config = EncoderConfig(name="sentence-transformers", path=str(tmp_path / "whole"), max_length=40)
    assert make_space(config).ladder.dims == (32,)
    preparer = load_preparer(config, LimitsConfig())
    prepared = preparer.prepare([*TEXTS, "", "goal " * 40, "goal " * 41])
    assert isinstance(prepared[len(TEXTS)], BadSample)
    long = ["goal " * 40, "goal " * 41]
    assert count_texts(preparer, long, preparer.prepare(long)) == TextCounts(81, 1, 1)  # type: ignore[arg-type]
    np.testing.assert_allclose(encode(config, TEXTS), full, atol=1e-6)  # type: ignore[arg-type]
    (tmp_path / "whole" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match="holds no table"):
        make_space(config)
