"""Images as the web has them: each gives the right pixels or a BadSample, and none crashes the process."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.encoders.image_preprocessing import ImagePreparer, ImageRule, decode
from pipelines.encoders.protocol import BadSample
from schemas.config import LimitsConfig
from schemas.records import IMAGE_SUFFIXES

SIDE = 32
RULE = ImageRule(crop=(SIDE, SIDE), short=SIDE)
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def halves(mode: str = "RGB", left: object = (200, 30, 40), right: object = (20, 60, 220)) -> Image.Image:
    """Left half in one colour, right half in another."""
    image = Image.new(mode, (64, 64), left)
    image.paste(right, (32, 0, 64, 64))
    return image


def check_halves(
    pixels: np.ndarray, left: tuple[int, ...] = (200, 30, 40), right: tuple[int, ...] = (20, 60, 220)
) -> None:
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[:, :12].mean((0, 1)), left, atol=12)
    np.testing.assert_allclose(pixels[:, 20:].mean((0, 1)), right, atol=12)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_every_format_gives_its_colours(kind: str) -> None:
    check_halves(decode(encoded(halves(), kind), RULE, 10**6))


def test_cmyk() -> None:
    cmyk = halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0))
    for kind in ("JPEG", "TIFF"):
        check_halves(decode(encoded(cmyk, kind), RULE, 10**6), (255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("top", [1, 255, 65535, 10**6])
def test_numbers_of_32_bits_keep_their_brightness_whatever_their_range(dtype: type, top: int) -> None:
    grey = np.linspace(0, 1, SIDE)[None].repeat(SIDE, 0)
    image = Image.fromarray((grey * top).astype(dtype))
    pixels = decode(encoded(image, "TIFF"), RULE, 10**6)
    expected = (grey * top).astype(dtype) * (255.0 / top)
    assert np.abs(pixels[..., 0] - expected).max() < 1.01


def test_sixteen_bits_and_floats() -> None:
    ramp = np.repeat(np.repeat([[0, 65535]], 32, axis=1), 64, axis=0)
    for image in (Image.fromarray(ramp.astype(np.uint16)), Image.fromarray((ramp / 65535).astype(np.float32))):
        check_halves(decode(encoded(image, "TIFF"), RULE, 10**6), (0, 0, 0), (255, 255, 255))
    check_halves(decode(encoded(Image.fromarray(ramp.astype(np.uint16)), "PNG"), RULE, 10**6), (0,) * 3, (255,) * 3)
    assert decode(encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), RULE, 10**6).shape[2] == 3


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "YCbCr", "LAB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode in ("YCbCr", "LAB", "LA") else "PNG"
    image = Image.new("LAB", (64, 64)) if mode == "LAB" else halves().convert(mode)
    assert decode(encoded(image, kind), RULE, 10**6).shape == (SIDE, SIDE, 3)


def test_an_animation_shows_its_first_frame() -> None:
    for kind in ("GIF", "WEBP", "PNG"):
        rest = [Image.new("RGB", (64, 64), "green")] * 3
        check_halves(decode(encoded(halves(), kind, save_all=True, append_images=rest), RULE, 10**6))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(orientation: int) -> None:
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # ImageOps' transposes, by EXIF's numbers
    inverse = {0: 0, 1: 1, 2: 4, 3: 3, 4: 2, 5: 5, 6: 6}
    stored = halves()
    if orientation in turn:
        stored = stored.transpose(Image.Transpose(inverse[turn[orientation]]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    check_halves(decode(encoded(stored, "JPEG", exif=exif, quality=95), RULE, 10**6))


def test_an_image_with_broken_exif_is_decoded() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(halves(), "JPEG", exif=exif, quality=95)
    at = data.index(b"Exif")
    for cut in range(6, 27, 2):
        broken = data[: at + cut] + b"\xff" * 6 + data[at + cut + 6 :]
        check_halves(decode(broken, RULE, 10**6))


def test_bytes_of_no_known_format_are_refused() -> None:
    for data in (
        b"",
        b"\0" * 100,
        b"<html><body>404</body></html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage",
    ):
        with pytest.raises(BadSample) as bad:
            decode(data, RULE, 10**6)
        assert bad.value.reason == "bad_image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    data = encoded(noise, kind)
    for keep in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(BadSample):
            decode(data[: int(len(data) * keep)], RULE, 10**6)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (10**6 + 1, 1)])
def test_bombs_are_refused_before_they_are_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(BadSample, match=r"pixels; limits\.max_pixels is 1000000") as bad:
        decode(bomb(*size), RULE, 10**6)
    assert bad.value.reason == "too_many_pixels"


def test_images_without_pixels_are_refused() -> None:
    for size in ((0, 5), (5, 0), (0, 0)):
        with pytest.raises(BadSample):
            decode(bomb(*size), RULE, 10**6)


@pytest.mark.parametrize("size", [(200_000, 1), (1, 200_000), (30_000, 3)])
def test_a_very_long_image_does_not_fill_the_memory(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 200, 30))
    pixels = decode(encoded(image, "PNG"), RULE, 10**6)
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.uint8([10, 200, 30]), (SIDE, SIDE, 3)))


def test_cutting_off_the_far_ends_changes_no_pixel() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40 * 9, 3), np.uint8))
    whole = noise.resize((SIDE * 9, SIDE), Image.Resampling.BICUBIC).crop((SIDE * 4, 0, SIDE * 5, SIDE))
    np.testing.assert_array_equal(decode(encoded(noise, "PNG"), RULE, 10**6), np.asarray(whole))


def test_decoding_in_threads_leaves_the_filters_of_warnings_alone() -> None:
    before = list(warnings.filters)
    data = encoded(halves("P", 1, 2), "PNG", transparency=b"\0\1\2")
    threads = [threading.Thread(target=lambda: [decode(data, RULE, 10**6) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def picture(width: int = 640, height: int = 480) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (33, 200), (7, 7)])
@pytest.mark.parametrize("rule", [RULE, ImageRule(crop=(24, 20), short=32), ImageRule(crop=(24, 20), short=None)])
def test_any_image_gets_the_size_that_the_model_wants(size: tuple[int, int], rule: ImageRule) -> None:
    pixels = decode(encoded(picture(*size), "PNG"), rule, 10**6)
    assert pixels.shape == (*rule.crop, 3)
    assert pixels.dtype == np.uint8


def test_a_jpeg_decoded_at_reduced_scale_looks_like_the_whole_one() -> None:
    data = encoded(picture(2048, 1536), "JPEG", quality=95)
    whole = picture(2048, 1536).resize((42, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))
    assert np.abs(decode(data, RULE, 10**8).astype(int) - np.asarray(whole, int)).mean() < 2


def test_one_bad_image_leaves_its_neighbours_unharmed() -> None:
    good = encoded(picture(), "PNG")
    data = [good, b"no image", good[: len(good) // 2], encoded(picture(400, 300), "PNG"), b""]
    prepared = ImagePreparer(RULE, LimitsConfig(max_pixels=640 * 400)).prepare(data)
    reasons = [p.reason if isinstance(p, BadSample) else "good" for p in prepared]
    assert reasons == ["too_many_pixels", "bad_image", "too_many_pixels", "good", "bad_image"]


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert decode(encoded(clear, "PNG"), RULE, 10**6).min() == 255


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_image_suffix_can_be_decoded(suffix: str) -> None:
    mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")
    file = io.BytesIO()
    halves().convert(mode).save(file, Image.registered_extensions()[suffix])
    assert decode(file.getvalue(), RULE, 10**6).shape == (SIDE, SIDE, 3)


LARGE = (3000, 2900)


@pytest.mark.parametrize(
    ("mode", "side"), [(m, 32) for m in ("RGB", "RGBA", "P", "LA", "I;16", "CMYK")] + [("LA", 1600)]
)
def test_a_large_image_is_scaled_as_a_whole_one_is(mode: str, side: int) -> None:
    tall = Image.linear_gradient("L").resize(LARGE)
    image = Image.fromarray(np.asarray(tall, np.uint16) * 257) if mode == "I;16" else tall.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(tall.transpose(Image.Transpose.ROTATE_180))
    kind = "TIFF" if mode in ("CMYK", "LA") else "PNG"
    got = decode(encoded(image, kind), ImageRule(crop=(side, side), short=side), 10**8)
    white = Image.new("RGBA", LARGE, "white")
    whole = tall if mode == "I;16" else Image.alpha_composite(white, image.convert("RGBA"))
    scaled = whole.convert("RGB").resize((int(side * LARGE[0] / LARGE[1]), side), Image.Resampling.BICUBIC)
    assert np.abs(got.astype(int) - np.asarray(scaled)[:, :side]).mean() < 1.5


def test_a_large_image_is_turned_upright_too() -> None:
    image = halves("RGBA", (200, 30, 40, 255), (20, 60, 220, 255)).resize(LARGE, Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = 3
    check_halves(decode(encoded(image, "PNG", exif=exif), RULE, 10**8), (20, 60, 220), (200, 30, 40))


MEASURE = """
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from PIL import Image
from pipelines.encoders.image_preprocessing import ImageRule, decode

def memory(field):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) // 1024

Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
start = memory("VmRSS")
rule = ImageRule(crop=(224, 224), short=224)
ThreadPool(8).map(lambda path: decode(Path(path).read_bytes(), rule, 15_000_000), sys.argv[1:] * 4, 1)
print(memory("VmHWM") - start)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured as Linux tells it")
def test_eight_threads_together_take_little_more_than_the_pixels_of_one_large_image(tmp_path: Path) -> None:
    paths = [tmp_path / f"{mode}.png" for mode in ("RGBA", "LA")]
    for path in paths:
        Image.new(path.stem, (5000, 3000)).save(path, compress_level=1)
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    peak_mb = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    # 15 million pixels of five bytes are 75 MB, and threads keep up to 32 MB each: 240 MB; without the bound 510 MB.
    assert peak_mb < 340
