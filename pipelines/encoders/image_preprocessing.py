"""Image preprocessing: safe decoding of bytes to pixels, scaling, cropping, normalising.

Owns every opening of an image. Which crop and which statistics a model wants is its `ImageRule`.

Shapes: B images, H height, W width, C channels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.encoders.decode_memory import bounded_decode
from pipelines.encoders.protocol import BadSample, Prepared, Raw
from pipelines.storage.device import to_device
from schemas.config import LimitsConfig

# Pillow's own check only warns. Ours refuses by `limits.max_pixels`, before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# Decoders run in many threads, where warnings cannot be silenced for one call. Real damage raises an error.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Named one by one: otherwise Pillow also tries formats that start other programs, as EPS does.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
# An image longer than this many times its short side loses its ends before it is scaled; no crop shows them.
_MAX_PROPORTION = 8
# A JPEG is decoded at the smallest eighth of its size that is this many times the target's.
_DRAFT_MARGIN = 2
# Larger images are made RGB and smaller in bands of so many pixels: each whole copy would be four bytes a pixel.
_LARGE_PIXELS = 1 << 23
_SHRINK_MARGIN = 4
_WHOLE_SIDE = 2048  # of whole images: only those of many times as much are decoded at reduced scale
_BAND_PIXELS = 1 << 20


@dataclass(frozen=True)
class ImageRule:
    """The scaling, cropping and normalising that a model was trained with.

    Attributes:
        crop: Height and width of the result.
        short: Length that the short side is scaled to before the centre is cropped; None scales to `crop` directly,
            which changes the proportions.
        resample: Pillow filter.
        mean: Per channel, taken from pixels in 0…1.
        std: Per channel, the divisor that follows.
        rounds_crop: Whether half a pixel of the crop's offset is rounded to even, as in torchvision, or cut off.
    """

    crop: tuple[int, int]
    short: int | None
    resample: Image.Resampling = Image.Resampling.BICUBIC
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    rounds_crop: bool = False


class ImagePreparer:
    """Decodes images to the pixels that a rule asks for."""

    def __init__(self, rule: ImageRule, limits: LimitsConfig) -> None:
        """Keep the rule and the cap on pixels."""
        self._rule, self._max_pixels = rule, limits.max_pixels

    def prepare(self, values: Sequence[Raw]) -> list[Prepared | BadSample]:
        """Decode images to uint8 RGB (height, width, 3)."""
        return [self._prepare(cast(bytes, value)) for value in values]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Return 1 for each image, (B,)."""
        return np.ones(len(prepared), np.int64)

    def _prepare(self, data: bytes) -> Prepared | BadSample:
        try:
            return decode(data, self._rule, self._max_pixels)
        except BadSample as bad:
            return bad


def decode(data: bytes, rule: ImageRule, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode an image, rotate it upright, scale and crop it by a rule.

    Transparent images are laid on white. JPEGs much larger than the target are decoded at reduced scale.

    Args:
        data: JPEG, PNG, WebP, GIF, TIFF, BMP, PPM, JPEG 2000 or AVIF; of an animation, the first frame.
        rule: How to scale and crop.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        BadSample: Not an image, cut off, corrupt, or too large.
    """
    with _bad_image():
        return np.asarray(_scale_and_crop(_open(data, rule.short or max(rule.crop), max_pixels), rule), np.uint8)


class WholeImagePreparer:
    """Decodes images to all of their pixels, for a model that scales them itself."""

    def __init__(self, limits: LimitsConfig) -> None:
        """Keep the cap on pixels."""
        self._max_pixels = limits.max_pixels

    def prepare(self, values: Sequence[Raw]) -> list[Prepared | BadSample]:
        """Decode images to upright uint8 RGB (height, width, 3), the largest at a fraction of their size."""
        return [self._prepare(cast(bytes, value)) for value in values]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Return 1 for each image, (B,)."""
        return np.ones(len(prepared), np.int64)

    def _prepare(self, data: bytes) -> Prepared | BadSample:
        try:
            with _bad_image():
                return np.asarray(_open(data, _WHOLE_SIDE, self._max_pixels), np.uint8)
        except BadSample as bad:
            return bad


def decode_box(
    data: bytes, box: Callable[[int, int], tuple[int, int, int, int]], pixels: int, max_pixels: int
) -> npt.NDArray[np.uint8]:
    """Decode an image, rotate it upright, and scale a box of it to a square, as training crops.

    Args:
        data: As in `decode`.
        box: From width and height to left, top, right and bottom.
        pixels: Side of the square.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        (pixels, pixels, 3) uint8 RGB.

    Raises:
        BadSample: Not an image, cut off, corrupt, or too large.
    """
    with _bad_image():
        image = _open(data, pixels, max_pixels)
        square = image.resize((pixels, pixels), Image.Resampling.BILINEAR, box=box(*image.size))
        return np.asarray(square, np.uint8)


def thumbnail(data: bytes, side: int, max_pixels: int) -> bytes:
    """Decode an image, rotate it upright, and return it as a PNG whose longer side has at most `side` pixels.

    Raises:
        BadSample: Not an image, cut off, corrupt, or too large.
    """
    with _bad_image():
        image = _open(data, side, max_pixels)
        image.thumbnail((side, side))
        png = io.BytesIO()
        image.save(png, "PNG")
        return png.getvalue()


@contextmanager
def _bad_image() -> Iterator[None]:
    """Turn any error of decoding into a BadSample."""
    try:
        yield
    except BadSample:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise BadSample("bad_image", f"{type(error).__name__}: {error}") from None


def _open(data: bytes, short: int, max_pixels: int) -> Image.Image:
    """Decode to upright RGB; a JPEG at a scale that leaves its sides `_DRAFT_MARGIN` times `short` or more."""
    try:
        file = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise BadSample("bad_image", f"not an image: starts with {data[:8]!r}") from None
    width, height = file.size
    if width * height > max_pixels:
        raise BadSample("too_many_pixels", f"{width}x{height} pixels; limits.max_pixels is {max_pixels}")
    file.draft("RGB", (_DRAFT_MARGIN * short, _DRAFT_MARGIN * short))
    with bounded_decode(file, width * height, max_pixels):
        file.load()
        if file.width * file.height > _LARGE_PIXELS:
            return _upright_like(file, _shrunk_rgb(file, _SHRINK_MARGIN * short))
        return _to_rgb(_upright(file))


def normalise(prepared: Sequence[Prepared], rule: ImageRule, device: torch.device) -> torch.Tensor:
    """Stack B images and normalise them by a rule: (B, 3, H, W) float32, channels last in memory."""
    pixels_BHWC = to_device(torch.from_numpy(np.stack(prepared)), device)
    mean, std = (torch.tensor(per_channel, device=device) for per_channel in (rule.mean, rule.std))
    return (pixels_BHWC.float().div_(255.0).sub_(mean).div_(std)).permute(0, 3, 1, 2)


def _scale_and_crop(image: Image.Image, rule: ImageRule) -> Image.Image:
    high, wide = rule.crop
    if rule.short is None:
        return image.resize((wide, high), rule.resample)
    image = _without_far_ends(image)
    width, height = image.size
    long = int(rule.short * max(width, height) / min(width, height))
    size = (rule.short, long) if width <= height else (long, rule.short)
    image = image.resize(size, rule.resample)
    spare = (size[0] - wide, size[1] - high)
    left, top = (round(s / 2) if rule.rounds_crop else s // 2 for s in spare)
    return image.crop((left, top, left + wide, top + high))


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Keep the middle of a very long image: scaling all of a line of a million pixels would fill the memory."""
    width, height = image.size
    longest = _MAX_PROPORTION * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, min(width, left + longest), min(height, top + longest)))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block raises errors of many kinds; the pixels may be good
        return image


def _shrunk_rgb(image: Image.Image, short: int) -> Image.Image:
    """Convert a large image to RGB, at the smallest whole fraction of its size that leaves its sides `short` or more.

    Up to `fraction - 1` pixels at its sides are left out, so that its proportions stay.
    """
    factor = max(1, min(image.size) // short)
    wide, high = (side // factor for side in image.size)
    left, top = (side % factor // 2 for side in image.size)
    rows = max(1, _BAND_PIXELS // (image.width * factor))
    boxes = [
        (left, top + first * factor, left + wide * factor, top + min(high, first + rows) * factor)
        for first in range(0, high, rows)
    ]
    brightest = max(_brightest(image.crop(box)) for box in boxes)
    shrunk = Image.new("RGB", (wide, high))
    for first, box in zip(range(0, high, rows), boxes, strict=True):
        band = _to_rgb(image.crop(box), brightest)
        shrunk.paste(band if factor == 1 else band.reduce(factor), (0, first))
    return shrunk


def _upright_like(original: Image.Image, image: Image.Image) -> Image.Image:
    """Turn an image as the EXIF block of its original says."""
    try:
        image.info["exif"] = original.getexif().tobytes()
    except Exception:  # a broken EXIF block raises errors of many kinds; the pixels may be good
        return image
    return _upright(image)


def _white(brightest: float) -> float:
    """Return the white level of an image of 32-bit numbers, which names none: the next of the usual ones."""
    return next((level for level in (1.0, 255.0, 65535.0) if brightest <= level), brightest)


def _brightest(image: Image.Image) -> float:
    """Return the largest number of an image of wide numbers, or the largest possible one where the mode tells it."""
    if image.mode not in ("I", "F"):
        return 65535.0
    wide = np.nan_to_num(np.asarray(image, np.float32), posinf=0.0, neginf=0.0)
    return float(wide.max(initial=0.0))


def _to_rgb(image: Image.Image, brightest: float | None = None) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        wide = np.nan_to_num(np.asarray(image, np.float32), posinf=0.0, neginf=0.0)
        top = _white(_brightest(image) if brightest is None else brightest)
        image = Image.fromarray((wide.clip(0, top) * (255.0 / top)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white_page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white_page, rgba).convert("RGB")
    return image.convert("RGB")
