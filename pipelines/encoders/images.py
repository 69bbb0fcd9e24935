"""Bytes to pixels, safely: the one place that opens an image."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.encoders.protocol import BadSample

# Pillow's own check warns and goes on; ours refuses by the configured cap before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


def decode_square(data: bytes, side: int, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode an image, turn it upright, scale its short side to `side` (bicubic), and take the centre square.

    Transparent images are laid on white. JPEGs are decoded at reduced scale where that loses nothing.

    Args:
        data: PNG, JPEG, WebP, GIF (first frame), TIFF or BMP.
        side: Pixels of the square.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        (side, side, 3) uint8 RGB.

    Raises:
        BadSample: Not an image, cut off, corrupt, or too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > max_pixels:
                raise BadSample("too_many_pixels", f"{width}x{height} pixels; limits.max_pixels is {max_pixels}")
            image.draft("RGB", (side, side))
            image.load()
            image = _to_rgb(ImageOps.exif_transpose(image))
        except BadSample:
            raise
        except UnidentifiedImageError:
            raise BadSample("bad_image", f"not an image: starts with {data[:8]!r}") from None
        except Exception as error:  # Pillow's decoders raise whatever their format's parser happens to
            raise BadSample("bad_image", f"{type(error).__name__}: {error}") from None
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC), np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        wide = np.asarray(image, np.float32)
        top = 65535.0 if image.mode != "F" or wide.max() > 1 else 1.0
        image = Image.fromarray((wide.clip(0, top) * (255.0 / top)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
