"""A head gives what its layers give, two make a joint space, and another encoder under it is refused."""

from __future__ import annotations

import io
import itertools
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pipelines.encoders import encode_query, load_encoder, load_preparer, make_space, own_class, registry
from pipelines.encoders.checkpoints import Layer, save_head
from pipelines.encoders.own_class import GROUP
from pipelines.encoders.registry import describe_tower
from schemas.checkpoints import HeadFile
from schemas.config import EncoderConfig, LimitsConfig, TrustConfig
from schemas.errors import ConfigError, EncoderError, EncoderNotTrusted
from tests.support.own_folders import CODE, write_own

TEXT, IMAGE = EncoderConfig(name="wordllama"), EncoderConfig(name="efficientnet-lite0")


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def layers(*widths: int) -> list[Layer]:
    generator = torch.Generator().manual_seed(sum(widths))
    pairs = itertools.pairwise(widths)
    return [Layer(torch.randn(b, a, generator=generator), torch.randn(b, generator=generator)) for a, b in pairs]


@pytest.fixture
def joint(tmp_path: Path) -> EncoderConfig:
    towers = {"text": describe_tower(TEXT), "image": describe_tower(IMAGE)}
    stacks = {"text": layers(256, 40, 16), "image": layers(1280, 16)}
    save_head(tmp_path / "head", HeadFile(dims=(4, 8, 16), towers=towers), stacks)
    return EncoderConfig(name="matryoshka-head", path=str(tmp_path / "head"))


def test_a_head_is_its_frozen_encoder_and_the_layers_on_top(joint: EncoderConfig) -> None:
    frozen = load_encoder(TEXT).encode(load_preparer(TEXT, LimitsConfig()).prepare(["a goal"]))
    first, second = layers(256, 40, 16)
    hidden = functional.gelu(functional.linear(torch.from_numpy(frozen), first.weight, first.bias))
    expected = functional.normalize(functional.linear(hidden, second.weight, second.bias)).numpy()
    ours = load_encoder(joint).encode(load_preparer(joint, LimitsConfig()).prepare(["a goal"]))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_texts_and_images_share_one_space_with_the_trained_ladder(joint: EncoderConfig) -> None:
    space = make_space(joint)
    assert space.ladder.dims == (4, 8, 16)
    assert space.weights
    words, pixels = (
        encode_query(space, query, TrustConfig(encoder_path=joint.path)) for query in ("a goal", picture())
    )
    assert words.shape == pixels.shape == (16,)
    np.testing.assert_allclose([np.linalg.norm(words), np.linalg.norm(pixels)], 1, atol=1e-5)


def test_a_head_on_another_encoder_than_it_was_trained_on_is_refused(joint: EncoderConfig) -> None:
    file = Path(str(joint.path)) / "head.json"
    said = json.loads(file.read_text())
    said["towers"]["text"]["space"] = "0" * 16
    file.write_text(json.dumps(said))
    prepared = load_preparer(joint, LimitsConfig()).prepare(["a goal"])
    with pytest.raises(EncoderError, match="its space is not the same"):
        load_encoder(joint).encode(prepared)


def test_a_head_runs_no_code_of_its_towers_without_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_run = tmp_path / "has-run"
    own = write_own(tmp_path / "own", f"{CODE}\nimport pathlib; pathlib.Path({str(has_run)!r}).touch()\n")
    folder = tmp_path / "head"
    save_head(folder, HeadFile(dims=(4, 8), towers={"text": describe_tower(own)}), {"text": layers(8, 8)})
    head = EncoderConfig(name="matryoshka-head", path=str(folder))
    space = make_space(head)
    for use in (load_encoder, lambda config: load_preparer(config, LimitsConfig())):
        with pytest.raises(EncoderNotTrusted, match=r"own runs Python code from .*own, and encoder\.trust_remote_code"):
            use(head)
    with pytest.raises(EncoderNotTrusted, match="--trust-remote-code"):
        encode_query(space, "a", TrustConfig(encoder_path=head.path))
    assert not has_run.exists()
    assert encode_query(space, "a", TrustConfig(encoder_path=head.path, trust_remote_code=True)).shape == (8,)
    assert has_run.exists()

    # A class that a package offers is named by no head that was made here.
    point = EntryPoint("birds", "mine:Letters", GROUP)
    monkeypatch.setattr(own_class, "offered", lambda: {"birds": point})
    monkeypatch.setattr(registry, "offered", lambda: {"birds": point})
    file = folder / "head.json"
    file.write_text(file.read_text().replace('"own"', '"birds"'))
    with pytest.raises(ConfigError, match="a head cannot stand on"):
        make_space(head)
