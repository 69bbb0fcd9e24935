"""Precomputed vectors, made elsewhere (OpenAI, Cohere, …): checked, scaled to unit length, in a space of their own.

The registry knows some makers. Vectors of any other model enter as `precomputed`, and `encoder.path` names a JSON file
that describes them: `{"model": "my-model", "revision": "2026-08", "dims": [64, 256, 768], "licence": "…"}`, and with
`shares` the space that registered models share with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pipelines.encoders.described import Described, SharedName
from pipelines.encoders.protocol import BadSample, Family, Prepared, Raw
from pipelines.encoders.spec import EncoderSpec
from pipelines.vectors.matryoshka import unit
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, SpaceMismatch


class Description(Described):
    """The content of the description file at `encoder.path`."""

    model: str
    revision: str
    shares: SharedName = ""


class VectorPreparer:
    """Checks that vectors have the right width, are finite and not zero; scales them to unit length."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Take name and width from the spec."""
        self._name, self._width = spec.name, spec.ladder.width

    def prepare(self, values: Sequence[Raw]) -> list[Prepared | BadSample]:
        """Turn vectors (D,) of any float dtype into float32 unit rows.

        Raises:
            SpaceMismatch: An input is a text or an image: no model here can embed it.
        """
        return [self._check(value) for value in values]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Return 1 for each vector, (B,)."""
        return np.ones(len(prepared), np.int64)

    def _check(self, value: Raw) -> Prepared | BadSample:
        if isinstance(value, str | bytes):
            raise SpaceMismatch(
                f"{self._name} vectors are precomputed; embed the input where they were made, "
                f"and pass its {self._width} floats"
            )
        vector_D = np.asarray(value, np.float64)  # in which no number of float32 overflows or vanishes
        if vector_D.shape != (self._width,):
            return BadSample("wrong_width", f"shape {vector_D.shape}; {self._name} has {self._width} dims")
        if not np.isfinite(vector_D).all():
            return BadSample("not_finite", "the vector holds null, NaN or infinity")
        if not vector_D.any():
            return BadSample("zero_vector", "a vector of zeros has no direction")
        return unit(vector_D).astype(np.float32)


class VectorEncoder:
    """Stacks the vectors, which are there already."""

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Stack B vectors to (B, D) float32 unit rows."""
        return np.stack(cast("list[npt.NDArray[np.float32]]", prepared))


class PrecomputedFamily(Family):
    """Vectors made elsewhere."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec from a description file.

        Raises:
            ConfigError: The file is no such description.
        """
        try:
            description = Description.model_validate(json.loads(path.read_text()))
        except (OSError, ValueError, ValidationError) as error:
            raise ConfigError(
                f"encoder.path={path} must describe the vectors (model, revision, dims): {error}"
            ) from None
        return description.complete(spec, f"{description.model} {description.revision}", shares=description.shares)

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> VectorPreparer:
        """Load the checks."""
        return VectorPreparer(spec)

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> VectorEncoder:
        """Load nothing: the vectors exist already."""
        return VectorEncoder()
