"""One query in a space: what cannot be embedded there is refused, and a stranger's space loads nothing of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.encoders import REGISTRY, encode_query, make_space
from pipelines.encoders.model_files import hash_files
from schemas.columns import Ladder, Space
from schemas.config import EncoderConfig, TrustConfig
from schemas.errors import ConfigError, EncoderNotTrusted, InputError, LakeError, SpaceMismatch
from tests.support.tiny_encoders import register_like, save_tokenizer

SPACE = make_space(EncoderConfig(name="wordllama"))
_opened: list[str] = []


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir", "import") and arguments:
        _opened.append(str(arguments[0]))


sys.addaudithook(_note_opened)


def space_at(folder: Path, encoder: str) -> Space:
    return Space(
        encoder=encoder, revision="local", weights=hash_files(folder), path=str(folder), ladder=Ladder(dims=(8,))
    )


def test_a_query_is_one_unit_row() -> None:
    vector_D = encode_query(SPACE, "a goal")
    assert vector_D.shape == (256,)
    assert np.isclose(np.linalg.norm(vector_D), 1)


def test_a_query_of_another_modality_is_refused() -> None:
    with pytest.raises(
        SpaceMismatch,
        match=r"embeds only text inputs; .* words .*like=.* vector of 256 dims\. For pictures.*mlake encoders",
    ):
        encode_query(SPACE, b"pixels")


def test_an_empty_query_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be embedded"):
        encode_query(SPACE, "")


@pytest.mark.parametrize(
    "changed",
    [
        {"revision": "another"},
        {"weights": "0" * 64},
        {"pooling": "cls"},
        {"steps": ("layer_norm", "l2")},
        {"max_length": 1},
        {"prompts": {"query": "zzz "}},
        {"ladder": Ladder(dims=(32,))},
    ],
)
def test_an_encoder_that_did_not_make_the_space_does_not_answer(changed: dict[str, Any]) -> None:
    with pytest.raises(SpaceMismatch, match=next(iter(changed))):
        encode_query(SPACE.model_copy(update=changed), "a goal")


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_no_encoder_opens_a_path_that_a_table_names(tmp_path: Path, name: str) -> None:
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    (strangers / "config.json").write_text("{}")
    space = space_at(strangers, name)
    _opened.clear()
    for query in ("words", b"pixels"):
        with pytest.raises((EncoderNotTrusted, SpaceMismatch)):
            encode_query(space, query)
    assert not [path for path in _opened if str(strangers) in path]


@pytest.mark.parametrize("name", sorted(n for n, spec in REGISTRY.items() if spec.runs_code and spec.revision))
def test_a_registered_model_runs_its_code_only_where_the_user_allows_it(name: str) -> None:
    space = make_space(EncoderConfig(name=name))
    for trust in (TrustConfig(), TrustConfig(unverified=True)):
        with pytest.raises(EncoderNotTrusted, match=r"encoder\.trust_remote_code is false"):
            encode_query(space, "words", trust)


def test_code_in_a_folder_runs_only_if_the_user_names_the_folder_and_allows_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = tmp_path / "model", tmp_path / "ran"
    save_tokenizer(folder)
    (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Config: ...\nclass Model: ...\n")
    auto_map = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": auto_map}))
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "theirs.Model"}]))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    like = ("nomic-embed-text-v1.5", "jina-embeddings-v3", "bge-m3", "granite-embedding-311m-r2")
    names = [register_like(monkeypatch, name, runs_code=REGISTRY[name].runs_code).name for name in like]
    path, other = str(folder), tmp_path / "other"
    for name in names:
        space = space_at(folder, name)
        for trust in (TrustConfig(), TrustConfig(trust_remote_code=True), TrustConfig(encoder_path=path)):
            with pytest.raises((LakeError, ValueError, OSError)):
                encode_query(space, "words", trust)
            assert not ran.exists(), name
    other.mkdir()
    with pytest.raises(SpaceMismatch, match="not those that made this space"):
        encode_query(space_at(folder, names[0]), "words", TrustConfig(encoder_path=str(other)))
    own = make_space(EncoderConfig(name=names[0], path=path, trust_remote_code=True))
    with pytest.raises(Exception):  # noqa: B017, PT011 - their code is run, and is no model
        encode_query(own, "words", TrustConfig(encoder_path=path, trust_remote_code=True))
    assert ran.exists()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> EncoderConfig:
    """A model of texts that shares its space with `tiny-large`, of which there are only vectors."""
    space = {"shares": "voyage-4", "dims": (64, 128, 256)}
    for name, like in (("tiny-large", "voyage-4-large"), ("tiny-small", "wordllama")):
        monkeypatch.setitem(REGISTRY, name, replace(REGISTRY[like], name=name, **space))
    return EncoderConfig(name="tiny-small", device="cpu")


def test_a_model_that_shares_the_space_answers_where_this_user_names_it(tmp_path: Path, small: EncoderConfig) -> None:
    trust = TrustConfig(encoder="tiny-small")
    wanted = encode_query(SPACE, "a goal")
    large = make_space(EncoderConfig(name="tiny-large"))
    np.testing.assert_allclose(encode_query(large, "a goal", trust), wanted, atol=1e-6)
    earlier = large.model_copy(update={"shares": ""})  # of a release that did not say it
    np.testing.assert_allclose(encode_query(earlier, "a goal", trust), wanted, atol=1e-6)
    described = tmp_path / "large.json"
    facts = {"model": "large", "revision": "1", "dims": [64, 128], "shares": "voyage-4"}
    described.write_text(json.dumps(facts))
    narrow = make_space(EncoderConfig(name="precomputed", path=str(described)))
    prefix = wanted[:128] / np.linalg.norm(wanted[:128])
    np.testing.assert_allclose(encode_query(narrow, "a goal", trust), prefix, atol=1e-6)
    server = tmp_path / "server.json"
    server.write_text(
        json.dumps({"api": "voyage", "url": "http://x", "model": "large", "dims": [64, 256], "shares": "voyage-4"})
    )
    served = make_space(EncoderConfig(name="served", path=str(server)))
    np.testing.assert_allclose(encode_query(served, "a goal", trust), wanted, atol=1e-6)
    described.write_text(json.dumps(facts | {"shares": "voyage-5"}))
    with pytest.raises(ConfigError, match=r"no models share a space named 'voyage-5'; known: .*voyage-4"):
        make_space(EncoderConfig(name="precomputed", path=str(described)))


def test_who_shares_no_space_does_not_answer(tmp_path: Path, small: EncoderConfig) -> None:
    large = make_space(EncoderConfig(name="tiny-large"))
    with pytest.raises(SpaceMismatch, match=r"precomputed: .*shares its space: --encoder (voyage-4-nano|tiny-small)"):
        encode_query(large, "a goal")
    with pytest.raises(SpaceMismatch, match=r"wordllama does not answer for tiny-large.*voyage-4-nano, tiny-small"):
        encode_query(large, "a goal", TrustConfig(encoder="wordllama"))
    with pytest.raises(SpaceMismatch, match="no other model shares its space"):
        encode_query(SPACE, "a goal", TrustConfig(encoder="tiny-small"))
    with pytest.raises(SpaceMismatch, match="embeds only text inputs"):
        encode_query(large, b"pixels", TrustConfig(encoder="tiny-small"))
    nano = TrustConfig(encoder="voyage-4-nano", trust_remote_code=True)
    with pytest.raises(EncoderNotTrusted, match="unverified"):
        encode_query(make_space(EncoderConfig(name="voyage-4")), "words", nano)
    with pytest.raises(SpaceMismatch, match="2048 dims, and tiny-small gives 256"):
        encode_query(make_space(EncoderConfig(name="voyage-4")), "words", TrustConfig(encoder="tiny-small"))
