"""Images: decoded to what the model wants, bad ones named, JPEGs at reduced scale; onnxruntime equals torch."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.encoders import BadSample, encoder_spec, load_preparer
from pipelines.encoders.families.efficientnet import EfficientNetEncoder
from pipelines.encoders.images import ImagePreparer, ImageRule, decode
from pipelines.encoders.onnx import cache_dir
from schemas.config import EncoderConfig, LimitsConfig

SQUARE = ImageRule(crop=(32, 32), short=32)


def picture(width: int = 640, height: int = 480) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (33, 200), (7, 7)])
@pytest.mark.parametrize("rule", [SQUARE, ImageRule(crop=(24, 20), short=32), ImageRule(crop=(24, 20), short=None)])
def test_any_image_gets_the_size_that_the_model_wants(size: tuple[int, int], rule: ImageRule) -> None:
    pixels = decode(encoded(picture(*size), "PNG"), rule, 10**6)
    assert pixels.shape == (*rule.crop, 3)
    assert pixels.dtype == np.uint8


def test_a_jpeg_decoded_at_reduced_scale_looks_like_the_whole_one() -> None:
    data = encoded(picture(2048, 1536), "JPEG", quality=95)
    whole = picture(2048, 1536).resize((42, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))
    assert np.abs(decode(data, SQUARE, 10**8).astype(int) - np.asarray(whole, int)).mean() < 2


def test_one_bad_image_leaves_its_neighbours_unharmed() -> None:
    good = encoded(picture(), "PNG")
    data = [good, b"no image", good[: len(good) // 2], encoded(picture(400, 300), "PNG"), b""]
    prepared = ImagePreparer(SQUARE, LimitsConfig(max_pixels=640 * 400)).prepare(data)
    reasons = [p.reason if isinstance(p, BadSample) else "good" for p in prepared]
    assert reasons == ["too_many_pixels", "bad_image", "too_many_pixels", "good", "bad_image"]


def test_a_picture_that_breaks_off_is_refused() -> None:
    data = encoded(picture(), "PNG")
    with pytest.raises(BadSample, match=r"truncated|broken"):
        decode(data[: len(data) // 2], SQUARE, 10**6)


def test_transparency_lies_on_white_and_orientation_is_followed() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert decode(encoded(clear, "PNG"), SQUARE, 10**6).min() == 255
    tall = Image.new("RGB", (64, 32), "black")
    tall.paste("white", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the right
    turned = decode(encoded(tall, "PNG", exif=exif), ImageRule(crop=(32, 16), short=None), 10**6)
    assert turned[:12].min() > 200 > 60 > turned[-12:].max()


@pytest.mark.parametrize(
    "image", [Image.new("L", (40, 40), 7), Image.new("P", (40, 40)), Image.new("I;16", (40, 40), 900)]
)
def test_grey_palette_and_16_bit_images_become_rgb(image: Image.Image) -> None:
    assert decode(encoded(image, "PNG"), SQUARE, 10**6).shape == (32, 32, 3)


def test_onnxruntime_gives_what_torch_gives_whatever_the_batch() -> None:
    torch.set_num_threads(1)
    spec, config = encoder_spec("efficientnet-lite0"), EncoderConfig(name="efficientnet-lite0", device="cpu")
    data = [encoded(picture(300 + 20 * i, 260), "PNG") for i in range(3)]
    prepared = [p for p in load_preparer(config, LimitsConfig()).prepare(data) if not isinstance(p, BadSample)]
    fast, exact = (EfficientNetEncoder(spec, config, use_onnx=use).encode for use in (True, False))
    np.testing.assert_allclose(fast(prepared), exact(prepared), atol=1e-5)
    np.testing.assert_allclose(fast(prepared[:1]), exact(prepared)[:1], atol=1e-5)


def test_the_cache_follows_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "matryoshka-lake" / "onnx"
