"""Image corruptions of several kinds in five severities, after ImageNet-C.

Owns pixels only. A corruption is a function of the pixels, its kind, its severity and a seed: the same call gives the
same image.

Shapes: H height, W width, C channels.

Source: Hendrycks and Dietterich 2019 (arXiv 1903.12261). Strengths are those of their code at 224 pixels; the blur
radius scales with the image's short side.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]
Random = np.random.Generator

_REFERENCE_SIDE = 224
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(pixels_HWC: Pixels, kind: str, severity: int, seed: int = 0) -> Pixels:
    """Corrupt an image.

    Args:
        pixels_HWC: uint8, grey (H, W) or (H, W, 3).
        kind: One of `KINDS`.
        severity: 1 to 5.
        seed: Seed of the noise.

    Returns:
        The corrupted image, same shape, uint8.

    Raises:
        ValueError: There is no such kind or severity.
    """
    if kind not in KINDS or severity not in SEVERITIES:
        raise ValueError(f"no corruption {kind!r} at severity {severity!r}; there are {', '.join(KINDS)}, each 1 to 5")
    apply, strengths = KINDS[kind]
    corrupted: Pixels = apply(
        pixels_HWC, strengths[severity - 1], np.random.default_rng([seed, severity, [*KINDS].index(kind)])
    )
    return corrupted


def _gaussian_noise(pixels: Pixels, spread: float, rng: Random) -> Pixels:
    return _to_pixels(_to_unit(pixels) + rng.normal(0, spread, pixels.shape))


def _shot_noise(pixels: Pixels, photons: float, rng: Random) -> Pixels:
    return _to_pixels(rng.poisson(_to_unit(pixels) * photons) / photons)


def _impulse_noise(pixels: Pixels, share: float, rng: Random) -> Pixels:
    drawn = rng.random(pixels.shape)
    sprinkled: Pixels = np.where(drawn < share / 2, 0, np.where(drawn < share, 255, pixels)).astype(np.uint8)
    return sprinkled


def _gaussian_blur(pixels: Pixels, radius: float, rng: Random) -> Pixels:
    scaled = radius * min(pixels.shape[:2]) / _REFERENCE_SIDE
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(scaled)))


def _brightness(pixels: Pixels, shift: float, rng: Random) -> Pixels:
    return _to_pixels(_to_unit(pixels) + shift)


def _contrast(pixels: Pixels, factor: float, rng: Random) -> Pixels:
    unit = _to_unit(pixels)
    mean = unit.mean(axis=(0, 1), keepdims=True)
    return _to_pixels((unit - mean) * factor + mean)


def _jpeg(pixels: Pixels, quality: float, rng: Random) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer))


def _pixelate(pixels: Pixels, share: float, rng: Random) -> Pixels:
    image = Image.fromarray(pixels)
    small = image.resize([max(1, int(side * share)) for side in image.size], Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.NEAREST))


def _to_unit(pixels: Pixels) -> npt.NDArray[np.float64]:
    return pixels / 255.0


def _to_pixels(unit: npt.NDArray[np.float64]) -> Pixels:
    pixels: Pixels = np.rint(unit.clip(0, 1) * 255).astype(np.uint8)
    return pixels


KINDS: dict[str, tuple[Callable[[Pixels, float, Random], Pixels], tuple[float, ...]]] = {
    "gaussian-noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot-noise": (_shot_noise, (60, 25, 12, 5, 3)),
    "impulse-noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian-blur": (_gaussian_blur, (1, 2, 3, 4, 6)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
}
