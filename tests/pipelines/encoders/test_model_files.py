"""A model's files: pinned packages and hashes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.encoders import encoder_spec
from pipelines.encoders.model_files import check_package, hash_files, local_path, model_source
from schemas.config import EncoderConfig
from schemas.errors import ConfigError, DependencyMissing, EncoderError


def test_another_version_of_the_package_with_the_weights_is_refused() -> None:
    spec = encoder_spec("wordllama")
    check_package(spec)
    with pytest.raises(EncoderError, match=r"pinned to wordllama 9\.9"):
        check_package(replace(spec, revision="9.9"))
    with pytest.raises(DependencyMissing, match=r"pip install no-such-package==9\.9"):
        check_package(replace(spec, package="no-such-package", revision="9.9"))


def test_only_files_that_can_change_a_vector_change_the_hash(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    before = hash_files(tmp_path)
    (tmp_path / "README.md").write_text("a model card")
    assert hash_files(tmp_path) == before
    (tmp_path / "tokenizer.json").write_text("{}")
    assert hash_files(tmp_path) != before


def test_a_local_path_is_loaded_instead_of_the_pinned_repository(tmp_path: Path) -> None:
    spec = encoder_spec("bge-m3")
    assert model_source(spec, EncoderConfig(name="bge-m3")) == (spec.repo, spec.revision)
    assert model_source(spec, EncoderConfig(name="bge-m3", path=str(tmp_path))) == (str(tmp_path), None)
    with pytest.raises(ConfigError, match="nothing is there"):
        local_path(str(tmp_path / "missing"))
