"""Corruptions are repeatable, stronger at every severity, and keep the shape of an image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.corruptions import KINDS, SEVERITIES, corrupt


def _picture(side: int = 64, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    picture = np.asarray(small.resize((side, side + 8), Image.Resampling.BICUBIC))
    return picture if channels == 3 else picture[..., 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_is_deterministic_and_worse_at_every_severity(kind: str, channels: int) -> None:
    clean = _picture(224, channels)
    errors = []
    for severity in SEVERITIES:
        found = corrupt(clean, kind, severity, seed=5)
        assert found.shape == clean.shape
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, corrupt(clean, kind, severity, seed=5))
        errors.append(np.abs(found.astype(float) - clean).mean())
    assert errors == sorted(errors)
    assert errors[0] > 0.1


def test_noise_depends_on_the_seed() -> None:
    clean = _picture()
    assert (corrupt(clean, "gaussian-noise", 3, seed=1) != corrupt(clean, "gaussian-noise", 3, seed=2)).any()


def test_blur_scales_with_the_picture() -> None:
    def lost(side: int) -> float:
        clean = _picture(side)
        return float(np.abs(corrupt(clean, "gaussian-blur", 3).astype(float) - clean).mean())

    assert lost(112) == pytest.approx(lost(448), rel=0.25)


@pytest.mark.parametrize(("kind", "severity"), [("fog", 1), ("jpeg", 0), ("jpeg", 6)])
def test_what_does_not_exist_is_refused(kind: str, severity: int) -> None:
    with pytest.raises(ValueError, match="there are gaussian-noise"):
        corrupt(_picture(), kind, severity)
