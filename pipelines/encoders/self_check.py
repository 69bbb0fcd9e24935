"""Check that an encoder keeps its promises, on inputs of its modality: what a table of its vectors relies on.

Owns the checks. Owns no samples of a user's data; texts and pictures are made here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.encoders.protocol import BadSample, Encoder, Prepared, Raw
from pipelines.encoders.registry import load_encoder, load_preparer, resolve
from pipelines.vectors.matryoshka import are_unit, cut
from schemas.config import EncoderConfig, LimitsConfig
from schemas.records import Modality

_TEXTS = ("a red fox", "ein roter Fuchs", "一只红狐狸", "fox", "a fox " * 40, "numbers: 3.14, 42", "ends here.", "é€𝄞")
_NEAR = 1e-4  # between the same input alone and in a batch; half precision is allowed ten times as much


@dataclass(frozen=True)
class Check:
    """One promise: its name, whether it is kept, and what was measured."""

    name: str
    passed: bool
    said: str


def check_encoder_works(config: EncoderConfig) -> Iterator[Check]:
    """Encode a few inputs in several ways, and yield a result for each promise.

    Raises:
        LakeError: The encoder cannot be loaded, or refuses to work.
    """
    spec = resolve(config)
    near = _NEAR if config.dtype in ("auto", "float32") else 10 * _NEAR
    encoder, inputs = load_encoder(config), _prepared(config, spec.modalities[0])
    x_BD = encoder.encode(inputs)
    width = spec.ladder.width
    shape = f"{x_BD.shape} {x_BD.dtype} for {len(inputs)} inputs"
    yield Check("shape", x_BD.shape == (len(inputs), width) and x_BD.dtype == np.float32, shape)
    if x_BD.shape != (len(inputs), width):
        return
    lengths = np.linalg.norm(x_BD, axis=1)
    yield Check("unit rows", bool(are_unit(x_BD).all()), f"lengths from {lengths.min():.6f} to {lengths.max():.6f}")
    yield _compare("deterministic", x_BD, encoder.encode(inputs), near)
    order = np.random.default_rng(0).permutation(len(inputs))
    yield _compare("order", x_BD[order], encoder.encode([inputs[place] for place in order]), near)
    yield _compare("alone as in a batch", x_BD, _one_by_one(encoder, inputs), near)
    short = [int(dim) for dim in spec.ladder.dims if not are_unit(cut(x_BD, dim)).all()]
    yield Check("prefixes", not short, f"unit length at {', '.join(map(str, spec.ladder.dims))} dims")
    different = len(np.unique(x_BD.round(4), axis=0))
    yield Check("tells inputs apart", different > 1, f"{different} different vectors of {len(inputs)} inputs")
    query = config.model_copy(update={"side": "query"})
    q_BD = load_encoder(query).encode(_prepared(query, spec.modalities[0]))
    is_same = "as documents" if np.allclose(q_BD, x_BD, atol=near) else "in their own way"
    yield Check("queries", q_BD.shape == x_BD.shape and bool(are_unit(q_BD).all()), f"encoded {is_same}")


def _compare(name: str, a_BD: npt.NDArray[np.float32], b_BD: npt.NDArray[np.float32], near: float) -> Check:
    apart = float(np.abs(a_BD - b_BD).max()) if a_BD.shape == b_BD.shape else float("inf")
    return Check(name, apart <= near, f"largest difference {apart:.2g}, allowed {near:.2g}")


def _one_by_one(encoder: Encoder, inputs: Sequence[Prepared]) -> npt.NDArray[np.float32]:
    return np.concatenate([encoder.encode([one]) for one in inputs])


def _prepared(config: EncoderConfig, modality: Modality) -> list[Prepared]:
    prepared = load_preparer(config, LimitsConfig()).prepare(_samples(config, modality))
    return [one for one in prepared if not isinstance(one, BadSample)]


def _samples(config: EncoderConfig, modality: Modality) -> list[Raw]:
    rng = np.random.default_rng(0)
    if modality == "text":
        return list(_TEXTS)
    if modality == "vector":
        return list(rng.standard_normal((8, resolve(config).ladder.width)).astype(np.float32))
    return [_picture(rng, size) for size in ((64, 64), (320, 200), (200, 320), (33, 500))]


def _picture(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    held = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8), "RGB").save(held, "PNG")
    return held.getvalue()
