"""Precomputed vectors are checked, scaled to unit length, and given a space of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.encoders import BadSample, encode_query, load_encoder, load_preparer, make_space, resolve, spec_of
from schemas.config import EncoderConfig, LimitsConfig, TrustConfig
from schemas.errors import ConfigError, SpaceMismatch


def test_vectors_are_checked_and_scaled_to_unit_length() -> None:
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
    config = EncoderConfig(name="precomputed", path=str(file))
    with pytest.raises(ConfigError, match=r"encoder\.path"):
        resolve(EncoderConfig(name="precomputed"))
    file.write_text(json.dumps({"model": "mine", "revision": "1", "dims": [8, 4]}))
    first = make_space(config)
    assert first.ladder.dims == (4, 8)
    file.write_text(json.dumps({"model": "mine", "revision": "2", "dims": [4, 8]}))
    assert make_space(config).fingerprint != first.fingerprint
    file.write_text(json.dumps({"model": "mine"}))
    with pytest.raises(ConfigError, match="revision"):
        make_space(config)


def test_the_name_of_the_first_release_gives_the_same_space(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"model": "mine", "revision": "1", "dims": [4, 8]}))
    old, new = (make_space(EncoderConfig(name=name, path=str(file))) for name in ("brought", "precomputed"))
    assert old.fingerprint == new.fingerprint
    assert spec_of(old, TrustConfig(encoder_path=str(file))).name == "precomputed"
