"""From a config to a space: what changes the vectors changes the fingerprint; what cannot work is refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.encoders import (
    REGISTRY,
    BadSample,
    encode_query,
    encoder_spec,
    licence_notice,
    load_encoder,
    load_preparer,
    make_space,
    registry,
    resolve,
    spec_of,
)
from pipelines.encoders.files import check_package, hash_files
from schemas.columns import Space
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, DependencyMissing, EncoderError, EncoderNotFound, NotMatryoshka, SpaceMismatch


@pytest.mark.parametrize("spec", REGISTRY.values(), ids=REGISTRY.keys())
def test_every_entry_is_whole(spec: registry.EncoderSpec) -> None:
    assert list(spec.dims) == sorted(set(spec.dims))
    assert spec.licence
    assert spec.dtypes[0] == "float32"
    if spec.repo and spec.family != "timm":
        assert re.fullmatch(r"[0-9a-f]{40}", spec.revision)
    if spec.family not in ("precomputed", "head", "trained"):
        assert bool(spec.repo) != bool(spec.package)
        assert spec.steps[-1] == "l2"
        assert ("text" not in spec.modalities) or spec.max_length
        assert make_space(EncoderConfig(name=spec.name)).ladder == spec.ladder


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(EncoderNotFound, match="did you mean 'wordllama'"):
        encoder_spec("wordlama")


def test_raw_truncation_of_what_was_not_trained_for_it_is_refused_with_the_remedy() -> None:
    ladder = make_space(EncoderConfig(name="all-MiniLM-L6-v2")).ladder
    assert ladder.check(384) == 384
    with pytest.raises(NotMatryoshka, match="jobs rotate"):
        ladder.check(64)


def test_a_model_trained_for_any_dim_allows_any_from_its_smallest() -> None:
    ladder = make_space(EncoderConfig(name="qwen3-embedding-0.6b")).ladder
    assert [ladder.check(dim) for dim in (32, 33, 777, 1024)] == [32, 33, 777, 1024]
    for dim in (31, 1025):
        with pytest.raises(Exception, match="every dim from 32"):
            ladder.check(dim)


def test_a_dtype_that_harms_the_model_is_refused_and_the_gpu_takes_bf16() -> None:
    with pytest.raises(ConfigError, match="float16"):
        make_space(EncoderConfig(name="embeddinggemma-300m", dtype="float16"))
    assert make_space(EncoderConfig(name="embeddinggemma-300m"), has_gpu=True).dtype == "bfloat16"
    assert make_space(EncoderConfig(name="embeddinggemma-300m", device="cpu"), has_gpu=True).dtype == "float32"
    assert make_space(EncoderConfig(name="wordllama"), has_gpu=True).dtype == "float32"


def test_local_files_are_part_of_the_space_and_their_place_is_not(tmp_path: Path) -> None:
    for name, content in (("a", "weights"), ("b", "weights"), ("c", "other weights")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(content)
        (tmp_path / name / "README.md").write_text(name)
    a, b, c = (make_space(EncoderConfig(name="bge-m3", path=str(tmp_path / name))) for name in "abc")
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.fingerprint != make_space(EncoderConfig(name="bge-m3")).fingerprint
    assert Space.model_validate_json(a.model_dump_json()) == a
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    assert hash_files(tmp_path / "a") != a.weights
    with pytest.raises(SpaceMismatch, match="not those that made this space"):
        spec_of(a)
    with pytest.raises(ConfigError, match="nothing is there"):
        make_space(EncoderConfig(name="bge-m3", path=str(tmp_path / "d")))


def test_both_towers_of_a_joint_model_share_one_space() -> None:
    space = make_space(EncoderConfig(name="nomic-embed-vision-v1.5"))
    text = encoder_spec("nomic-embed-text-v1.5")
    assert spec_of(space).modalities == ("image", "text")
    assert space.revision.endswith(text.revision)
    assert space.prompts == dict(sorted(text.prompts.items()))
    assert space.fingerprint == make_space(EncoderConfig(name="nomic-embed-vision-v1.5", side="query")).fingerprint


def test_another_version_of_the_package_with_the_weights_is_refused() -> None:
    spec = encoder_spec("wordllama")
    check_package(spec)
    with pytest.raises(EncoderError, match=r"pinned to wordllama 9\.9"):
        check_package(replace(spec, revision="9.9"))
    with pytest.raises(DependencyMissing, match=r"pip install no-such-package==9\.9"):
        check_package(replace(spec, package="no-such-package", revision="9.9"))


@pytest.mark.parametrize(("name", "extra"), [("openclip-vit-b-32-laion2b", "openclip"), ("timm-resnet50", "timm")])
def test_a_missing_optional_library_names_the_extra_to_install(name: str, extra: str) -> None:
    with pytest.raises(DependencyMissing, match=rf"matryoshka-lake\[{extra}\]"):
        load_encoder(EncoderConfig(name=name))


def test_terms_are_told_where_there_are_any() -> None:
    assert licence_notice(encoder_spec("wordllama")) is None
    assert "forbids commercial use" in str(licence_notice(encoder_spec("jina-clip-v2")))
    assert "gated" in str(licence_notice(encoder_spec("embeddinggemma-300m")))
    assert "runs Python code" in str(licence_notice(encoder_spec("nomic-embed-text-v1.5")))


def test_brought_vectors_are_checked_and_brought_to_unit_length() -> None:
    config = EncoderConfig(name="text-embedding-3-small")
    preparer, width = load_preparer(config, LimitsConfig()), 1536
    rng = np.random.default_rng(0)
    values = [
        rng.normal(size=width),
        rng.normal(size=width).tolist(),
        rng.normal(size=8),
        np.zeros(width),
        np.full(width, np.nan),
    ]
    prepared = preparer.prepare(values)
    assert [getattr(p, "reason", "good") for p in prepared] == [
        "good",
        "good",
        "wrong_width",
        "zero_vector",
        "not_finite",
    ]
    good = [p for p in prepared if not isinstance(p, BadSample)]
    vectors_BD = load_encoder(config).encode(good)
    np.testing.assert_allclose(vectors_BD[0], values[0] / np.linalg.norm(values[0]), atol=1e-6)
    assert make_space(config).ladder.check(700) == 700
    with pytest.raises(SpaceMismatch, match="pass the vector"):
        encode_query(make_space(config), "words")


def test_vectors_of_an_unknown_model_are_described_by_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    config = EncoderConfig(name="brought", path=str(file))
    with pytest.raises(ConfigError, match=r"encoder\.path"):
        resolve(EncoderConfig(name="brought"))
    file.write_text(json.dumps({"model": "mine", "revision": "1", "dims": [8, 4]}))
    first = make_space(config)
    assert first.ladder.dims == (4, 8)
    file.write_text(json.dumps({"model": "mine", "revision": "2", "dims": [4, 8]}))
    assert make_space(config).fingerprint != first.fingerprint
    file.write_text(json.dumps({"model": "mine"}))
    with pytest.raises(ConfigError, match="revision"):
        make_space(config)
